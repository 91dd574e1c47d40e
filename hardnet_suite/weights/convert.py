"""Conversion of state dicts between the official programs' key names, ours and OpenMMLab's.

A network records the official names of its parts while it is built (``official_prefixes``); a key map is
nothing but that record applied to its keys, so it is data and bijective. The one change of values: SSD's
class convolutions hold the background first in the official files, last here and in mmdet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from hardnet_suite.networks import (
    Arch,
    CenterNetArch,
    DescriptorArch,
    FCHarDNetArch,
    HarDNetArch,
    MSEGArch,
    SSDArch,
    build_network,
    find_arch,
)

# module of our network -> module of the OpenMMLab model, by target and kind of architecture
_SSD_IN_MMDET = {
    "trunk": "backbone.trunk",
    "neck": "neck",
    "cls": "bbox_head.cls_convs",
    "box": "bbox_head.reg_convs",
}
_CENTERNET_IN_MMDET = {
    "trunk": "backbone.trunk",
    "decoder": "neck",
    "hm": "bbox_head.hm",
    "wh": "bbox_head.wh",
}
_SEGMENTATION_IN_MMSEG = {
    "trunk": "backbone.trunk",
    "decoder": "decode_head.decoder",
    "classifier": "decode_head.conv_seg",
}
_CLASSIFIER_IN_MMENGINE = {"trunk": "network.trunk", "fc": "network.fc"}
_DESCRIPTOR_IN_MMENGINE = {name: f"network.{name}" for name in ("features", "components", "mean")}
TARGETS: dict[str, dict[type, dict[str, str]]] = {
    "mmdet": {SSDArch: _SSD_IN_MMDET, CenterNetArch: _CENTERNET_IN_MMDET},
    "mmseg": {FCHarDNetArch: _SEGMENTATION_IN_MMSEG, MSEGArch: _SEGMENTATION_IN_MMSEG},
    "mmengine": {HarDNetArch: _CLASSIFIER_IN_MMENGINE, DescriptorArch: _DESCRIPTOR_IN_MMENGINE},
}


@cache
def class_layers(name: str) -> tuple[str, ...]:
    """Prefixes of the keys of our network whose tensors depend on the number of classes."""
    with torch.device("meta"):
        return build_network(name).class_layers


@cache
def _official_keys(name: str, arch: Arch | None = None) -> dict[str, str]:
    """Our key -> official key, for every key of the network ``name`` or of a record in its place."""
    with torch.device("meta"):
        network = build_network(name, arch=arch)
    return {key: _renamed(key, network.official_prefixes) for key in network.state_dict()}


@cache
def _unused_keys(name: str) -> dict[str, str]:
    """Prefixes of the official weights that the program never uses, each mapped to itself."""
    with torch.device("meta"):
        return {prefix: prefix for prefix in getattr(build_network(name), "official_unused", ())}


def _renamed(key: str, prefixes: Mapping[str, str]) -> str | None:
    """``key`` with the prefix (whole dotted parts) replaced; None where no prefix fits."""
    parts = key.split(".")
    for cut in range(len(parts), 0, -1):
        replacement = prefixes.get(".".join(parts[:cut]))
        if replacement is not None:
            return ".".join([replacement, *parts[cut:]])
    return None


def openmm_target(name: str) -> str:
    """The key of ``TARGETS`` that has a model of this name; ValueError where none has."""
    kind = type(find_arch(name))
    for target, kinds in TARGETS.items():
        if kind in kinds:
            return target
    raise ValueError(f"{name!r} has no {' or '.join(TARGETS)} model")


def _target_prefixes(name: str, target: str) -> dict[str, str] | None:
    """Our network -> the target's model; None for our network itself."""
    if target == "network":
        return None
    if target not in TARGETS:
        raise ValueError(f"target={target!r} is unknown; allowed: {', '.join(['network', *TARGETS])}")
    kind = type(find_arch(name))
    if kind not in TARGETS[target]:
        raise ValueError(f"{name!r} has no {target} model")
    return TARGETS[target][kind]


def _roll_background(row: Arch, key: str, value: Tensor, step: int) -> Tensor:
    """Rolls the classes of each box in SSD's class convolutions (``cls.LEVEL.weight`` and ``.bias``)."""
    if not (isinstance(row, SSDArch) and key.startswith("cls.")):
        return value
    boxes = row.priors.per_location[int(key.split(".")[1])]
    if not value.ndim or value.shape[0] % boxes:  # of no SSD: the loader says so
        return value
    return value.unflatten(0, (boxes, -1)).roll(step, dims=1).flatten(0, 1)


def split_official(
    name: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Splits an official state dict into what the network has and the rest.

    The keys of an official trunk alone begin with a number; they are converted to those of the trunk. What
    the official program holds and never uses (``official_unused`` of the network) is dropped.

    Args:
        name: a name of ``list_models()``.
        state_dict: tensors under the official keys, without wrapping such as ``module.``.
        arch: a record in place of the table's row.

    Returns:
        The network's tensors under its own keys, and the official keys that it lacks.
    """
    row = arch or find_arch(name)
    official_to_ours = {theirs: ours for ours, theirs in _official_keys(name, arch).items()}
    bare = is_bare_trunk(state_dict)
    converted, left = {}, []
    for key, value in state_dict.items():
        ours = official_to_ours.get(f"base.{key}" if bare else key)
        if ours is not None:
            converted[ours] = _roll_background(row, ours, value, -1)
        elif _renamed(key, _unused_keys(name)) is None:
            left.append(key)
    return converted, left


def is_bare_trunk(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are the entries of an official trunk alone, whose keys begin with a number."""
    return bool(state_dict) and all(key.split(".")[0].isdigit() for key in state_dict)


def convert_official(
    name: str, state_dict: Mapping[str, Tensor], *, target: str = "network"
) -> dict[str, Tensor]:
    """Converts an official state dict to the keys of ``target``.

    Args:
        name: a name of ``list_models()``.
        state_dict: tensors under the published program's keys, without wrapping such as ``module.``.
        target: "network" loads into ``create_model(name)``, "mmdet" into the detector, "mmseg" into the
            segmentor, "mmengine" into the classifier or the descriptor's model.

    Raises:
        ValueError: an unknown name or target, or a key that the model does not have.
    """
    converted, left = split_official(name, state_dict)
    if left:
        raise ValueError(f"not keys of the official {name}: {_some(left)}")
    return in_target(name, converted, target)


def in_target(name: str, state_dict: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Converts a state dict of our network ``name`` to the keys of the target's model."""
    prefixes = _target_prefixes(name, target)
    if prefixes is None:
        return dict(state_dict)
    return {_renamed(key, prefixes): value for key, value in state_dict.items()}


def from_target(name: str, state_dict: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Converts a state dict of the target's model to the keys of our network; the inverse of ``in_target``.

    Raises:
        ValueError: an unknown name or target, or a key that the target's model does not have.
    """
    converted, left = split_target(name, state_dict, target)
    if left:
        raise ValueError(f"not keys of {name} ({target}): {_some(left)}")
    return converted


def split_target(
    name: str, state_dict: Mapping[str, Tensor], target: str, arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Like ``split_official``, for a state dict of the target's model."""
    prefixes = _target_prefixes(name, target)
    back = None if prefixes is None else {theirs: ours for ours, theirs in prefixes.items()}
    known = _official_keys(name, arch)
    converted, left = {}, []
    for key, value in state_dict.items():
        ours = key if back is None else _renamed(key, back)
        if ours in known:
            converted[ours] = value
        else:
            left.append(key)
    return converted, left


def split_forms(
    name: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> Iterator[tuple[str, dict[str, Tensor], list[str]]]:
    """Reads a state dict in each form that a file of the model ``name`` may have.

    Yields:
        The form ("network", "official" or one of ``TARGETS``), the tensors under our network's keys, and the
        keys that it lacks.
    """
    kind = type(find_arch(name))
    for target in ("network", *(target for target, kinds in TARGETS.items() if kind in kinds)):
        yield target, *split_target(name, state_dict, target, arch)
    yield "official", *split_official(name, state_dict, arch)


def forms_of_key(name: str, key: str) -> list[str]:
    """A key of our network in each form that a file of the model ``name`` may have."""
    kinds = (target[type(find_arch(name))] for target in TARGETS.values() if type(find_arch(name)) in target)
    return [key, _official_keys(name)[key], *(_renamed(key, prefixes) for prefixes in kinds)]


def to_official(name: str, state_dict: Mapping[str, Tensor], *, target: str = "network") -> dict[str, Tensor]:
    """Converts a state dict of ``target`` to the published program's keys; inverts ``convert_official``.

    Raises:
        ValueError: an unknown name or target, or a key that the target's model does not have.
    """
    row, official_keys = find_arch(name), _official_keys(name)
    return {
        official_keys[key]: _roll_background(row, key, value, 1)
        for key, value in from_target(name, state_dict, target).items()
    }


def _some(keys: Iterable[str], most: int = 5) -> str:
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
