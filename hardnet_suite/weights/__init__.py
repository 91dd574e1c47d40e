"""Weights: where they lie, how official files become ours, and how they get into a network.

The names are imported when first asked for: the registry alone needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hardnet_suite.weights.checkpoint import Checkpoint, WeightsSource, chosen_row, open_weights
    from hardnet_suite.weights.convert import (
        convert_official,
        from_target,
        is_bare_trunk,
        split_official,
        to_official,
    )
    from hardnet_suite.weights.download import fetch
    from hardnet_suite.weights.file import read_checkpoint
    from hardnet_suite.weights.filling import LoadReport, fill, load_pretrained, load_weights
    from hardnet_suite.weights.identification import Identified, identify
    from hardnet_suite.weights.places import cache_dir, where
    from hardnet_suite.weights.registry import ROWS, WeightsRow, find
    from hardnet_suite.weights.save import save_weights
    from hardnet_suite.weights.tables import state_dict_of

_HOMES = {
    "Checkpoint": "checkpoint",
    "Identified": "identification",
    "LoadReport": "filling",
    "ROWS": "registry",
    "WeightsRow": "registry",
    "WeightsSource": "checkpoint",
    "cache_dir": "places",
    "chosen_row": "checkpoint",
    "convert_official": "convert",
    "fetch": "download",
    "fill": "filling",
    "find": "registry",
    "from_target": "convert",
    "identify": "identification",
    "is_bare_trunk": "convert",
    "load_pretrained": "filling",
    "load_weights": "filling",
    "open_weights": "checkpoint",
    "read_checkpoint": "file",
    "save_weights": "save",
    "split_official": "convert",
    "state_dict_of": "tables",
    "to_official": "convert",
    "where": "places",
}
__all__ = [
    "ROWS",
    "Checkpoint",
    "Identified",
    "LoadReport",
    "WeightsRow",
    "WeightsSource",
    "cache_dir",
    "chosen_row",
    "convert_official",
    "fetch",
    "fill",
    "find",
    "from_target",
    "identify",
    "is_bare_trunk",
    "load_pretrained",
    "load_weights",
    "open_weights",
    "read_checkpoint",
    "save_weights",
    "split_official",
    "state_dict_of",
    "to_official",
    "where",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
