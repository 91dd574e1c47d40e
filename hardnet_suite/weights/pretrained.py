"""Published or given weights into a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from hardnet_suite.errors import UserError
from hardnet_suite.networks import HarDNetTrunk
from hardnet_suite.weights.convert import is_bare_trunk, split_official
from hardnet_suite.weights.load import LoadReport, fetch, load_weights, read_checkpoint, state_dict_of
from hardnet_suite.weights.registry import ROWS, find


def load_pretrained(network: nn.Module, name: str, source: bool | str | Path) -> LoadReport:
    """Loads weights into ``network``, which ``build_network(name, …)`` made.

    source: True (the published weights), a tag of the registry, or a path; official files and the suite's
    own are told apart by their keys. A classifier's last layer, or a detector's class convolutions, of
    another number of classes than the file's keeps its fresh values, and a trunk leaves what is beyond it;
    anything else must fit (UserError, with the file's path). A file of a bare trunk goes as far as it goes.
    Weights for three channels are adapted to another number as timm does: summed for one, repeated and
    scaled to the same sum for more. The report says what kept its fresh values (``missing``) and what of the
    file was left (``unexpected``).
    """
    tags = {row.tag for row in ROWS if row.model == name}
    if source is True or source in tags:
        row = find(name, "published" if source is True else source)
        path, whole = fetch(row), not row.base_only
    else:
        path, whole = Path(source), True
    try:
        return _load_file(network, name, path, whole)
    except UserError as error:
        given = str(error)
        raise UserError(given if given.startswith(str(path)) else f"{path}: {given}") from None


def _load_file(network: nn.Module, name: str, path: Path, whole: bool) -> LoadReport:
    tensors = state_dict_of(read_checkpoint(path))
    whole = whole and not is_bare_trunk(tensors)
    tensors = own_keys(name, network, tensors)
    own = network.state_dict()
    if isinstance(network, HarDNetTrunk):
        tensors = {key.removeprefix("trunk."): value for key, value in tensors.items()}
        left = [key for key in tensors if key not in own]
    else:
        left = _other_classes(network, tensors)
    first = next((key for key, value in own.items() if value.ndim == 4), None)  # the first convolution
    if first in tensors:
        tensors[first] = _in_channels(tensors[first], own[first].shape[1])
    fresh = {key: own[key] for key in left if key in own}
    fitting = {key: value for key, value in tensors.items() if key not in left}
    # the fresh values stand in for the file's, so that all the rest is still checked strictly
    report = load_weights(network, fitting | fresh, strict=whole)
    return replace(
        report,
        taken=report.taken - len(fresh),
        missing=(*report.missing, *fresh),
        unexpected=(*report.unexpected, *(key for key in left if key not in own)),
    )


def _in_channels(weight: Tensor, wanted: int) -> Tensor:
    """(O, 3, h, w) to (O, wanted, h, w), for inputs whose channels are alike; others stay as they are."""
    if weight.ndim != 4 or weight.shape[1] != 3 or wanted == 3:
        return weight
    if wanted == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, torch.arange(wanted) % 3] * (3 / wanted)


def own_keys(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under our names: official keys are converted, our own are left as they are."""
    own = sum(key in tensors or f"trunk.{key}" in tensors for key in network.state_dict())
    converted, left = split_official(name, tensors)
    if own > len(converted):  # a few names may be the same in both, as CenterNet's "hm.0.weight"
        return dict(tensors)
    # what has no place stays under its own name, so that the loader reports it
    return converted | {key: tensors[key] for key in left}


def _other_classes(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Keys of the file's class predictions whose shape the network's differ from, or which it has none of."""
    own = network.state_dict()
    return [
        key
        for key, value in tensors.items()
        if key.startswith(network.class_layers)
        and (network.num_classes == 0 or (key in own and own[key].shape != value.shape))
    ]
