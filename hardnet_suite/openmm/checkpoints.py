"""Local checkpoints for mmengine, read by the suite's reader.

The start-up hook ``_hardnet_suite_mmcv`` loads this file without the package around it, so it imports nothing
from there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from hardnet_suite.errors import UserError
from hardnet_suite.networks import find_arch
from hardnet_suite.weights import Checkpoint, open_weights, read_checkpoint, state_dict_of
from hardnet_suite.weights.convert import differences
from hardnet_suite.weights.file import expanded
from hardnet_suite.weights.pickles import LogBuffer


def load_local(filename: str, map_location: str | torch.device | None = None) -> dict[str, Any]:
    """What mmengine loads from a local path.

    Class names and palette of a file that is not mmengine's own are put where OpenMMLab's inferencers look
    for them, which otherwise assume those of COCO or Cityscapes.

    Args:
        filename: path of the checkpoint.
        map_location: device of its tensors; None is the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: see ``hardnet_suite.weights.read_checkpoint``; or the weights are of a network that
            computes otherwise than that of configs.
    """
    if not expanded(filename).exists():
        raise FileNotFoundError(f"{filename} can not be found.")  # mmengine's own error
    checkpoint = for_mmengine(read_checkpoint(filename))
    if not isinstance(checkpoint.get("meta"), Mapping):
        checkpoint = _with_classes(checkpoint, expanded(filename))
    elif "computes_as" in checkpoint["meta"]:
        _require_usual_network(open_weights(filename, known=False))
    return checkpoint if map_location in (None, "cpu") else _moved(checkpoint, map_location)


def _require_usual_network(weights: Checkpoint) -> None:
    """UserError for weights of a network that computes otherwise than those of configs."""
    if weights.form != "trunk" and weights.arch is not None:
        raise UserError(
            f"{weights.path}: these weights are of another network than the {weights.model} of configs, with "
            f"{differences(weights.arch, find_arch(weights.model))[0]}: use create_model or predict"
        )


def _with_classes(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    weights = open_weights(path, known=False)
    _require_usual_network(weights)
    if weights.classes is None:
        return checkpoint
    names = {"classes": weights.classes}
    if weights.palette is not None:
        names["palette"] = [list(colour) for colour in weights.palette]
    return {"state_dict": OrderedDict(state_dict_of(checkpoint)), "meta": {"dataset_meta": names}}


def for_mmengine(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What mmengine gets of a run's checkpoint: the log in its own buffers, and no program.

    ``Runner.resume`` and ``BaseInferencer`` run the config that a checkpoint has as text. These entries are
    dropped: a config comes from the caller.
    """
    checkpoint = dict(checkpoint)
    meta, hub = checkpoint.get("meta"), checkpoint.get("message_hub")
    if isinstance(meta, Mapping):
        checkpoint["meta"] = _without(meta, "config", "cfg")
    if isinstance(hub, Mapping):
        hub = checkpoint["message_hub"] = dict(hub)
        if isinstance(hub.get("runtime_info"), Mapping):
            hub["runtime_info"] = _without(hub["runtime_info"], "config", "cfg")
        if isinstance(hub.get("log_scalars"), Mapping):
            hub["log_scalars"] = OrderedDict(
                (key, HistoryBuffer(value.log, value.count, value.max_length))
                for key, value in hub["log_scalars"].items()
                if isinstance(value, LogBuffer)
            )
    return checkpoint


def _without(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key not in keys}


def _moved(value: Any, device: str | torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        moved = copy(value)  # of the same kind: a scheduler's milestones are a Counter
        for key, each in value.items():
            moved[key] = _moved(each, device)
        return moved
    if isinstance(value, list | tuple):
        return type(value)([_moved(each, device) for each in value])
    return value
