"""Losses as pure functions on tensors. They depend on torch only."""

from hardnet_suite.losses.bootstrapped import bootstrapped_cross_entropy
from hardnet_suite.losses.centernet import centernet_loss
from hardnet_suite.losses.descriptor import global_orthogonal_regularization, hardest_in_batch_loss
from hardnet_suite.losses.distillation import distillation_loss
from hardnet_suite.losses.structure import structure_loss

__all__ = [
    "bootstrapped_cross_entropy",
    "centernet_loss",
    "distillation_loss",
    "global_orthogonal_regularization",
    "hardest_in_batch_loss",
    "structure_loss",
]
