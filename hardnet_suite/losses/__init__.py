"""Losses as pure functions on tensors. They depend on torch only."""

from hardnet_suite.losses.bootstrapped import bootstrapped_cross_entropy
from hardnet_suite.losses.centernet import centernet_loss

__all__ = ["bootstrapped_cross_entropy", "centernet_loss"]
