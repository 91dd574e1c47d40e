"""From the architecture table to the parts of an OpenMMLab model: channels, indices and taps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    Arch,
    CenterNetArch,
    FCHarDNetArch,
    MSEGArch,
    SegmentationArch,
    SSDArch,
    build_network,
    centernet,
    fchardnet,
    find_arch,
    mseg,
    ssd,
)
from hardnet_suite.openmm.models.backbone import HarDNet

Row = TypeVar("Row", SSDArch, CenterNetArch, FCHarDNetArch, MSEGArch, SegmentationArch)

KINDS = {
    SSDArch: "an SSD",
    CenterNetArch: "a CenterNet",
    FCHarDNetArch: "an FC-HarDNet",
    MSEGArch: "a HarDNet-MSEG",
    SegmentationArch: "an FC-HarDNet or a HarDNet-MSEG",
}
_SOURCES = {SSDArch: ssd, CenterNetArch: centernet, FCHarDNetArch: fchardnet, MSEGArch: mseg}
_OPENMMLAB_SCOPES = ("mmengine", "mmdet", "mmseg")


def row_of(arch: str, kind: type[Row]) -> Row:
    """Row of the architecture table.

    Raises:
        ValueError: unknown name, or a row of another kind.
    """
    row = find_arch(arch)
    if not isinstance(row, kind):
        raise ValueError(f"arch={arch!r}: expected {KINDS[kind]}, got a {type(row).__name__}")
    return row


@cache
def trunk_channels(arch: str) -> tuple[int, ...]:
    """Channels of the maps that model ``arch`` takes from its trunk, finest first."""
    return tuple(_skeleton(arch).trunk.channels)


@cache
def neck_channels(arch: str) -> tuple[int, ...]:
    """Channels of the maps that the head of model ``arch`` takes: one per level (SSD), or of the decoder."""
    network = _skeleton(arch)
    channels = network.neck.channels if isinstance(network.arch, SSDArch) else [network.decoder.channels]
    return tuple(channels)


def _skeleton(arch: str):
    """The network without memory for its weights."""
    with torch.device("meta"):
        return build_network(arch)


def backbone_options(arch: str) -> dict[str, Any]:
    """What the ``HarDNet`` backbone of model ``arch`` is built with."""
    row: Arch = find_arch(arch)
    tap = "transition" if isinstance(row, SSDArch | MSEGArch) else "block"
    return {"arch": arch, "out_indices": _SOURCES[type(row)].source_indices(row), "tap": tap}


def agreed(given: Any, expected: Any, what: str, arch: str) -> Any:
    """``expected``, which the table says, unless the config gives another value.

    Raises:
        UserError: the config contradicts the table.
    """
    if given is not None and _plain(given) != _plain(expected):
        raise UserError(
            f"{what}={_plain(given)!r} contradicts arch={arch!r}, which has {_plain(expected)!r}: "
            f"drop {what} from the config"
        )
    return expected


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def model_arch(arch: str | None, kind: type[Row], **parts: dict | None) -> str:
    """The model's ``arch``, which its parts may name as well, or instead.

    Raises:
        UserError: nothing names it, or two names differ.
        ValueError: no row of this kind.
    """
    for name, part in parts.items():
        own = (part or {}).get("arch")
        if arch is not None and own is not None and own != arch:
            raise UserError(
                f"model.{name}.arch={own!r} contradicts model.arch={arch!r}: name the architecture once, "
                "as model.arch"
            )
        arch = arch or own
    if arch is None:
        raise UserError(f"model.arch is missing: expected the name of {KINDS[kind]}, see list_models()")
    row_of(arch, kind)
    return arch


def backbone_config(arch: str, given: dict | None) -> ConfigDict:
    """The backbone's config completed from the table; other options, such as norm_cfg, are kept."""
    part = ConfigDict(given or {})
    part.setdefault("type", "HarDNet")
    if not _is_kind(part["type"], HarDNet):
        raise UserError(
            f"model.backbone is a {part['type']}: expected HarDNet; with another backbone use mmdet's "
            "SingleStageDetector or mmseg's EncoderDecoder"
        )
    for key, expected in backbone_options(arch).items():
        part[key] = agreed(part.get(key), expected, f"model.backbone.{key}", arch)
    return part


def part_config(arch: str, given: dict | None, kind: type) -> ConfigDict:
    """A neck's or head's config; one of our ``kind`` (the default) gets the model's ``arch``."""
    part = ConfigDict(given or {})
    part.setdefault("type", kind.__name__)
    if _is_kind(part["type"], kind):
        part["arch"] = arch
    return part


def _is_kind(given: str | type, kind: type) -> bool:
    found = given if isinstance(given, type) else MODELS.get(given)
    return isinstance(found, type) and issubclass(found, kind)


@contextmanager
def build_scope(name: str) -> Iterator[None]:
    """Parts are looked up in ``name``, whatever OpenMMLab project the process set as its default scope.

    The default scope of a user's own project stays: it finds OpenMMLab's parts through its parents.
    """
    current = DefaultScope.get_current_instance()
    if current is None or current.scope_name in _OPENMMLAB_SCOPES:
        with DefaultScope.overwrite_default_scope(name):
            yield
    else:
        yield
