"""Weights in any form of the suite, as the suite's OpenMMLab models load them."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.networks import find_arch
from hardnet_suite.weights import identify
from hardnet_suite.weights.convert import differences, in_target, openmm_target


class LoadsEveryForm:
    """Mixin of models with an ``arch``: a state dict of ``create_model``'s network or of the official program
    is renamed as it is loaded.

    OpenMMLab's inferencers and ``load_checkpoint`` report keys that do not fit in the log alone, and go on
    with random weights.
    """

    arch: str

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args: Any) -> None:
        if not prefix and not self.state_dict().keys() <= state_dict.keys():
            target = openmm_target(self.arch)
            try:
                found = identify(state_dict, self.arch)
            except UserError:
                found = None  # of another model, which whoever loads it reports
            if found is not None and found.arch is not None:
                raise UserError(
                    f"these weights ({found.form}) are of another network than the {self.arch} of configs, "
                    f"with {differences(found.arch, find_arch(self.arch))[0]}: use create_model or predict"
                )
            if found is not None and found.form != target:
                state_dict.clear()
                state_dict.update(in_target(self.arch, found.tensors, target))
        super()._load_from_state_dict(state_dict, prefix, *args)
