"""Which model a state dict is of, told by its keys and shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network, list_models
from hardnet_suite.weights.convert import class_layers, split_forms

_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class Identified:
    """``form``: "network", "official" or one of ``convert.TARGETS``; ``num_classes``: 0 for the patch
    descriptor; ``tensors``: under our names."""

    model: str
    form: str
    num_classes: int
    tensors: dict[str, Tensor]


@cache
def _shapes(model: str, num_classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the network, without the counters of batch norms, which old files lack."""
    with torch.device("meta"):
        state = build_network(model, num_classes=num_classes).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}


@cache
def _class_rule(model: str) -> tuple[str, int, int, int]:
    """(key, its first dimension at the usual number of classes, that number, what each more class adds)."""
    with torch.device("meta"):
        usual = build_network(model).num_classes
    shapes, others = _shapes(model), _shapes(model, usual + 1)
    key = [key for key in shapes if shapes[key] != others[key]][-1]
    return key, shapes[key][0], usual, others[key][0] - shapes[key][0]


def identify(state_dict: Mapping[str, Tensor], model: str | None = None) -> Identified:
    """The model and the form of a whole state dict, whatever its number of classes.

    Args:
        state_dict: without wrapping such as ``module.``.
        model: look for this one alone.

    Raises:
        UserError: it is of no model, or of several alike.
    """
    found = []
    for name in list_models() if model is None else [model]:
        for form, tensors, left in split_forms(name, state_dict):
            classes = None if left else _classes_if_whole(name, tensors)
            if classes is not None:
                found.append(Identified(name, form, classes, tensors))
                break
    if len(found) == 1:
        return found[0]
    some = ", ".join(list(state_dict)[:3])
    if not found:
        of = "any model of this suite" if model is None else model
        raise UserError(f"these are not the weights of {of} (keys such as {some})")
    names = " and ".join(one.model for one in found)
    raise UserError(f"these weights fit {names}: say which it is")


def _classes_if_whole(model: str, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of classes, if nothing is missing and every shape fits; otherwise None."""
    given = {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith(_COUNTER)}
    if not class_layers(model):
        return 0 if given == _shapes(model) else None
    key, usual_size, usual, step = _class_rule(model)
    if key not in tensors or not tensors[key].ndim:
        return None
    classes = usual + (tensors[key].shape[0] - usual_size) // step
    return classes if classes > 0 and given == _shapes(model, classes) else None
