"""Which model a state dict is of, told by its keys and shapes alone."""

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
    """A whole state dict of a model.

    Attributes:
        model: its name.
        form: "network", "official" or one of ``convert.TARGETS``.
        num_classes: 0 for the patch descriptor.
        tensors: under our names.
        in_chans: channels of the input.
    """

    model: str
    form: str
    num_classes: int
    tensors: dict[str, Tensor]
    in_chans: int


@cache
def _shapes(model: str, num_classes: int | None = None, arch: Arch | None = None) -> Shapes:
    """Key -> shape of the network, without the counters of batch norms."""
    with torch.device("meta"):
        state = build_network(model, num_classes=num_classes, arch=arch).state_dict()
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith(_COUNTER)}


@cache
def _feature_keys(model: str, arch: Arch | None = None) -> frozenset[str]:
    """Keys of the ``features_only`` network under ``trunk.``, without the counters of batch norms."""
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
    """The model and the form of a whole state dict, whatever its numbers of classes and input channels.

    A prefix before every key (``module.``, ``net.``, ``model.net.`` …) is dropped if the rest is a model's.

    Args:
        state_dict: the tensors.
        model: look for this one only.
        arch: a record in place of the row of ``model``.

    Raises:
        UserError: it is of no model, or of several alike.
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
    """ "" and each longer dotted prefix that every key begins with."""
    split = [key.split(".")[:-1] for key in keys]
    prefix = ""
    yield prefix
    for parts in zip(*split, strict=False):
        if len({*parts}) > 1:
            return
        prefix += f"{parts[0]}."
        yield prefix


def main_part(state_dict: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each longer prefix that most keys begin with, though not all, with the entries below it.

    A training module (Lightning's, for one) keeps its losses and metrics beside the network.
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
    """The entries of a file of the trunk alone under our network's names, and the keys left.

    Taken are an official trunk, with ``base.`` or a bare number before its keys, the ``trunk.`` entries of
    our network, and those of a network of ``features_only``; with a prefix before every key or without.
    Returns None for anything else. An official trunk with numbered keys may lack parts and have more.
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
    """(form, entries under our names, the rest), in the form and without the prefix that fit most of them."""
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
    """(classes, input channels), if nothing is missing and every other shape fits; otherwise None."""
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
    first = next(iter(expected))  # the convolution that takes the input
    if len(given.get(first, ())) != 4:
        return None
    channels = given[first][1]
    expected[first] = (expected[first][0], channels, *expected[first][2:])
    return (classes, channels) if given == expected else None
