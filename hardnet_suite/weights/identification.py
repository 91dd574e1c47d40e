"""Identifies the model of a state dict by its keys and shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.networks import Arch, DescriptorArch, build_network, find_arch, list_models
from hardnet_suite.weights.convert import class_layers, is_bare_trunk, split_forms

_COUNTER = ".num_batches_tracked"  # of batch norms; files older than torch 0.4.1 lack it
_TRUNK = "trunk."
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Identified:
    """A complete state dict of a model.

    Attributes:
        model: name of the model, one of ``list_models()``.
        form: naming scheme of the keys: "network", "official" or one of ``convert.TARGETS``.
        num_classes: number of classes; 0 for the patch descriptor.
        tensors: the tensors under the names of ``create_model``'s network.
        in_chans: number of input channels.
    """

    model: str
    form: str
    num_classes: int
    tensors: dict[str, Tensor]
    in_chans: int


@cache
def _shapes(model: str, num_classes: int | None = None, arch: Arch | None = None) -> Shapes:
    """Shapes of a network's tensors by key, without the batch norms' counters."""
    with torch.device("meta"):
        state = build_network(model, num_classes=num_classes, arch=arch).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}


@cache
def _feature_keys(model: str, arch: Arch | None = None) -> frozenset[str]:
    """Keys of the ``features_only`` network with the prefix ``trunk.``, without the batch norms' counters."""
    with torch.device("meta"):
        keys = build_network(model, arch=arch, features_only=True).state_dict()
    return frozenset(f"{_TRUNK}{key}" for key in keys if not key.endswith(_COUNTER))


@cache
def _class_rule(model: str, arch: Arch | None = None) -> tuple[str, int, int, int]:
    """(key, its first dimension at the usual number of classes, that number, what each more class adds)."""
    with torch.device("meta"):
        usual = build_network(model, arch=arch).num_classes
    shapes, others = _shapes(model, None, arch), _shapes(model, usual + 1, arch)
    key = [key for key in shapes if shapes[key] != others[key]][-1]
    return key, shapes[key][0], usual, others[key][0] - shapes[key][0]


def identify(
    state_dict: Mapping[str, Tensor], model: str | None = None, arch: Arch | None = None
) -> Identified:
    """Identifies the model and the naming scheme of a complete state dict.

    The numbers of classes and of input channels may be any. A prefix common to all keys (``module.``,
    ``net.``, ``model.net.`` …) is dropped if the remaining keys are those of a model.

    Args:
        state_dict: the tensors by name.
        model: name of the only model to compare with; None compares with all of them.
        arch: architecture in place of that of ``model``.

    Returns:
        The model, its naming scheme and its tensors under the names of ``create_model``'s network.

    Raises:
        UserError: no model fits, or more than one does.
    """
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        matches = [
            match
            for name in (list_models() if model is None else [model])
            if (match := _whole(name, tensors, arch)) is not None
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = " and ".join(match.model for match in matches)
            raise UserError(f"these weights fit {names}: say which it is")
    keys = ", ".join(list(state_dict)[:3])
    of = "any model of this suite" if model is None else model
    raise UserError(f"these are not the weights of {of} (keys such as {keys})")


def common_prefixes(keys: Iterable[str]) -> Iterator[str]:
    """The dotted prefixes that all keys share, the shortest first, beginning with the empty one."""
    split = [key.split(".")[:-1] for key in keys]
    prefix = ""
    yield prefix
    for parts in zip(*split, strict=False):
        if len({*parts}) > 1:
            return
        prefix += f"{parts[0]}."
        yield prefix


def main_part(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The dotted prefixes that most, but not all, keys share, each with the entries below it.

    A training module, such as Lightning's, keeps its losses and metrics beside the network.
    """
    prefix, below = "", dict(state_dict)
    while len(below) * 2 > len(state_dict):
        if len(below) < len(state_dict):
            yield prefix, {key.removeprefix(prefix): value for key, value in below.items()}
        firsts = Counter(key.removeprefix(prefix).partition(".")[0] for key in below)
        prefix += f"{firsts.most_common(1)[0][0]}."
        below = {key: value for key, value in below.items() if key.startswith(prefix)}


def split_trunk(
    model: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str]] | None:
    """Splits a state dict of a trunk alone into the trunk's entries and the remaining keys.

    The forms are: an official trunk, whose keys begin with ``base.`` or a bare number; the ``trunk.`` entries
    of ``create_model``'s network; and a ``features_only`` network; each with or without a common prefix.

    Args:
        model: name of the model.
        state_dict: the tensors by name.
        arch: architecture in place of that of ``model``.

    Returns:
        The trunk's entries under the names of ``create_model``'s network, and the keys that are not part of
        it; None for any other state dict. An official trunk with numbered keys may be incomplete.
    """
    if isinstance(find_arch(model), DescriptorArch):
        return None
    trunk = {key for key in _shapes(model, None, arch) if key.startswith(_TRUNK)}
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        for form, converted, left in split_forms(model, tensors, arch):
            bare = form == "official" and is_bare_trunk(tensors) and not prefix.endswith("base.")
            base = form == "official" and all(key.startswith("base.") for key in tensors)
            own = form != "official" and all(key.startswith(_TRUNK) for key in converted)
            if bare and converted:
                return converted, left
            if (base or own) and not left and trunk <= converted.keys():
                return converted, left
        features = {f"{_TRUNK}{key}": value for key, value in tensors.items()}
        counted = {key for key in features if not key.endswith(_COUNTER)}
        if trunk <= counted <= trunk | _feature_keys(model, arch):
            # the last 1×1 convolution of a features_only network may be absent from the whole one
            beyond = [
                key
                for key in features
                if (key.removesuffix(_COUNTER) + ".weight" if key.endswith(_COUNTER) else key) not in trunk
            ]
            kept = {key: value for key, value in features.items() if key not in beyond}
            return kept, [prefix + key.removeprefix(_TRUNK) for key in beyond]
    return None


def best_form(
    model: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[str, dict[str, Tensor], dict[str, Tensor]]:
    """Reads a state dict that fits no model completely, in the form in which most of its entries fit.

    Returns:
        The form, the entries under the names of ``create_model``'s network, and the remaining entries.
    """
    candidates = []
    for prefix in common_prefixes(state_dict):
        tensors = {key.removeprefix(prefix): value for key, value in state_dict.items()}
        for form, converted, left in split_forms(model, tensors, arch):
            if is_bare_trunk(tensors) and prefix.endswith("base."):
                continue  # those keys have their own names already
            candidates.append((form, converted, {key: tensors[key] for key in left}))
    return max(candidates, key=lambda candidate: len(candidate[1]))


def _whole(model: str, state_dict: Mapping[str, Tensor], arch: Arch | None) -> Identified | None:
    for form, tensors, left in split_forms(model, state_dict, arch):
        sizes = None if left else _sizes_if_whole(model, tensors, arch)
        if sizes is not None:
            return Identified(model, form, sizes[0], tensors, sizes[1])
    return None


def _sizes_if_whole(
    model: str, tensors: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[int, int] | None:
    """Numbers of classes and input channels if the tensors are complete and fit; None otherwise."""
    given = {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith(_COUNTER)}
    classes = 0
    if class_layers(model):
        key, usual_size, usual, step = _class_rule(model, arch)
        if not given.get(key):
            return None
        classes = usual + (given[key][0] - usual_size) // step
        if classes < 1:
            return None
    expected = dict(_shapes(model, classes or None, arch))
    first = next(key for key, shape in expected.items() if len(shape) == 4)  # takes the input
    if len(given.get(first, ())) != 4:
        return None
    channels = given[first][1]
    expected[first] = (expected[first][0], channels, *expected[first][2:])
    return (classes, channels) if given == expected else None
