"""Losses: pure functions on tensors, with torch alone."""

from hardnet_suite.losses.centernet import centernet_loss

__all__ = ["centernet_loss"]
