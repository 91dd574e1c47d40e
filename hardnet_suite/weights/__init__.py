"""Weights: where they lie, how official files become ours, and how they get into a network."""

from hardnet_suite.weights.convert import (
    convert_official,
    from_target,
    is_bare_trunk,
    split_official,
    to_official,
)
from hardnet_suite.weights.identify import Identified, identify
from hardnet_suite.weights.load import (
    LoadReport,
    cache_dir,
    fetch,
    load_weights,
    metadata_of,
    read_checkpoint,
    read_metadata,
    state_dict_of,
    where,
)
from hardnet_suite.weights.pretrained import chosen_row, classes_of, load_pretrained
from hardnet_suite.weights.registry import ROWS, WeightsRow, find
from hardnet_suite.weights.save import save_weights

__all__ = [
    "ROWS",
    "Identified",
    "LoadReport",
    "WeightsRow",
    "cache_dir",
    "chosen_row",
    "classes_of",
    "convert_official",
    "fetch",
    "find",
    "from_target",
    "identify",
    "is_bare_trunk",
    "load_pretrained",
    "load_weights",
    "metadata_of",
    "read_checkpoint",
    "read_metadata",
    "save_weights",
    "split_official",
    "state_dict_of",
    "to_official",
    "where",
]
