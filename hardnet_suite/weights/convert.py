"""Conversion of state dicts between the layouts of ``hardnet_suite.weights.layouts``.

A layout's keys follow from the network as it is built, so a key map is data and bijective; the way through
our network leads from any layout of a model to any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import torch
from torch import Tensor

from hardnet_suite.networks import ARCHS, Arch, FCHarDNetArch, HarDNetArch, build_network, find_arch
from hardnet_suite.weights.layouts import (
    OFFICIAL,
    OPENMM,
    OWN,
    KeyLayout,
    find_layout,
    keys_of,
    layouts_of,
    prefixes_of,
)
from hardnet_suite.weights.tables import is_counter

TARGETS = OPENMM


@cache
def class_layers(name: str) -> tuple[str, ...]:
    """Prefixes of the keys of our network whose tensors depend on the number of classes."""
    with torch.device("meta"):
        return build_network(name).class_layers


def openmm_target(name: str) -> str:
    """The key of ``TARGETS`` that has a model of this name; ValueError where none has."""
    for target, layout in TARGETS.items():
        if layout.has(name):
            return target
    raise ValueError(f"{name!r} has no {' or '.join(TARGETS)} model")


def _layout_of(name: str, target: str) -> KeyLayout:
    """The layout of that name; ValueError where there is none, or its program has no model ``name``."""
    layout = find_layout(target)
    if not layout.has(name):
        raise ValueError(f"{name!r} has no {target} model")
    return layout


def _split(
    name: str, state_dict: Mapping[str, Tensor], layout: KeyLayout, arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Splits a state dict of a layout into what the network has, under its own keys, and the other keys."""
    row = arch or find_arch(name)
    ours_of = {theirs: ours for ours, theirs in keys_of(name, layout, arch).items()}
    bare = layout is OFFICIAL and is_bare_trunk(state_dict)
    unused = unused_prefixes(name, layout.name)
    converted, left = {}, []
    for key, value in state_dict.items():
        ours = ours_of.get(f"base.{key}" if bare else key)
        if ours is not None:
            converted[ours] = layout.value(row, ours, value, False)
        elif not key.startswith(unused):
            left.append(key)
    return converted, left


@cache
def unused_prefixes(name: str, target: str) -> tuple[str, ...]:
    """Dotted prefixes of the weights that a layout's program has and never uses, and our network lacks."""
    if target != OFFICIAL.name:
        return ()
    with torch.device("meta"):
        return tuple(f"{prefix}." for prefix in getattr(build_network(name), "official_unused", ()))


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
    return _split(name, state_dict, OFFICIAL, arch)


def is_bare_trunk(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are the entries of an official trunk alone, whose keys begin with a number."""
    return bool(state_dict) and all(key.split(".")[0].isdigit() for key in state_dict)


def convert_official(
    name: str, state_dict: Mapping[str, Tensor], *, target: str = "network"
) -> dict[str, Tensor]:
    """Converts an official state dict to the keys of ``target``.

    As in ``split_official``, what the official program never uses is dropped.

    Args:
        name: a name of ``list_models()``.
        state_dict: tensors under the published program's keys, without wrapping such as ``module.``.
        target: "network" loads into ``create_model(name)``, "mmdet" into the detector, "mmseg" into the
            segmentor, "mmengine" into the classifier or the descriptor's model; or another layout.

    Raises:
        ValueError: an unknown name or target, a key that the model does not have, or a target whose program
            computes otherwise.
    """
    converted, left = split_official(name, state_dict)
    if left:
        raise ValueError(f"not keys of the official {name}: {_some(left)}")
    require_same_network(name, None, target)
    return in_target(name, converted, target)


def require_same_network(name: str, arch: Arch | None, target: str) -> None:
    """ValueError where a layout's program would compute other answers with the weights.

    Args:
        name: whose weights they are.
        arch: the architecture that they belong to; None: the row of the table.
        target: a layout.
    """
    layout, row = _layout_of(name, target), find_arch(name)
    if layout is OWN:  # any architecture, which the file's metadata names
        return
    theirs = name if layout in OPENMM.values() else alike(name)[0]  # our configs name the model
    words = differences(arch or row, layout.arch(find_arch(theirs)))
    if words is not None:
        raise ValueError(
            f"the weights are of a network with {words[0]}, but the {theirs} of {layout.program} has "
            f"{words[1]}: it would compute other answers"
        )


@cache
def alike(name: str) -> tuple[str, ...]:
    """The models whose tensors have the names and shapes of those of ``name``, in the table's order.

    Other programs have the first of them at most, and what they read under its keys is that one.
    """
    shapes = _shapes_of(name)
    return tuple(other for other in ARCHS if _shapes_of(other) == shapes)


@cache
def _shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build_network(name).state_dict().items()}


def differences(one: Arch, other: Arch) -> tuple[str, str] | None:
    """How two networks of the same shapes compute otherwise, in words: the one, and the other.

    Args:
        one: a record, or that of a trunk.
        other: a record, or that of a trunk.

    Returns:
        None where there is no difference.
    """
    told = [_way_of_computing(row) for row in (one, other)]
    names = [name for name in told[0] if told[0][name] != told[1].get(name, told[0][name])]
    if not names:
        return None
    return tuple(" and ".join(f"{name} {values[name]}" for name in names) for values in told)


def _way_of_computing(arch: Arch) -> dict[str, object]:
    """What an architecture computes with that the shapes of its tensors do not tell: name -> value."""
    row = getattr(arch, "trunk", arch)
    if not isinstance(row, HarDNetArch):
        return {}
    told: dict[str, object] = {
        "activation": row.act,
        "activation in blocks": row.block_act or row.act,
        "pooling": "none" if row.depthwise else row.pool,
        "first pooling rounded up": row.first_pool_ceil and not row.depthwise,
        "stem stride": row.stem_stride * row.first_step,
        "padding of strided convolutions": "on one side" if row.same_padding else "on both sides",
    }
    if isinstance(arch, FCHarDNetArch):
        told["aligned corners"] = arch.align_corners
    return told


def in_target(name: str, state_dict: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Converts a state dict of our network ``name`` to the keys of a layout.

    Batch norms' counters are dropped where the layout has none.

    Raises:
        ValueError: an unknown name or layout, or tensors for which the layout has no place.
    """
    layout, row = _layout_of(name, target), find_arch(name)
    if layout is OWN:
        return dict(state_dict)
    prefixes = prefixes_of(name, layout)
    kept = [key for key in state_dict if layout.counters or not is_counter(key)]
    renamed = {key: layout.rename(key, prefixes) for key in kept}
    if left := [key for key, theirs in renamed.items() if theirs is None]:
        raise ValueError(f"the {name} of {layout.program} has no place for {_some(left)}")
    return {renamed[key]: layout.value(row, key, state_dict[key], True) for key in kept}


def from_target(name: str, state_dict: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
    """Converts a state dict of a layout to the keys of our network; the inverse of ``in_target``.

    Raises:
        ValueError: an unknown name or layout, or a key that the layout does not have.
    """
    converted, left = split_target(name, state_dict, target)
    if left:
        raise ValueError(f"not keys of {name} ({target}): {_some(left)}")
    return converted


def split_target(
    name: str, state_dict: Mapping[str, Tensor], target: str, arch: Arch | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Like ``split_official``, for a state dict of another layout."""
    return _split(name, state_dict, _layout_of(name, target), arch)


def split_forms(
    name: str, state_dict: Mapping[str, Tensor], arch: Arch | None = None
) -> Iterator[tuple[str, dict[str, Tensor], list[str]]]:
    """Reads a state dict in each layout that a file of the model ``name`` may have by its keys.

    Yields:
        The name of the layout, the tensors under our network's keys, and the keys that it lacks.
    """
    for layout in layouts_of(name):
        yield layout.name, *_split(name, state_dict, layout, arch)


def forms_of_key(name: str, key: str) -> list[str]:
    """A key of our network in each layout that a file of the model ``name`` may have by its keys."""
    forms = (keys_of(name, layout).get(key) for layout in layouts_of(name))
    return [form for form in forms if form is not None]


def to_official(name: str, state_dict: Mapping[str, Tensor], *, target: str = "network") -> dict[str, Tensor]:
    """Converts a state dict of ``target`` to the published program's keys; inverts ``convert_official``.

    The result lacks what the program has and never uses (``unused_prefixes``), which its strict loading asks
    for.

    Raises:
        ValueError: an unknown name or target, a key that the target's model does not have, or a target whose
            program, or the published one, computes otherwise.
    """
    for layout in (target, OFFICIAL.name):
        require_same_network(name, None, layout)
    return in_target(name, from_target(name, state_dict, target), OFFICIAL.name)


def _some(keys: Iterable[str], most: int = 5) -> str:
    keys = list(keys)
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
