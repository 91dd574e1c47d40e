"""Published or given weights into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from hardnet_suite.networks import HarDNetTrunk
from hardnet_suite.weights.convert import split_official
from hardnet_suite.weights.load import LoadReport, fetch, load_weights, read_checkpoint, state_dict_of
from hardnet_suite.weights.registry import ROWS, find


def load_pretrained(network: nn.Module, name: str, source: bool | str | Path) -> LoadReport:
    """Loads weights into ``network``, which ``build_network(name, …)`` made.

    source: True (the published weights), a tag of the registry, or a path; official files and the suite's
    own are told apart by their keys. A classifier's last layer, or a detector's class convolutions, of
    another number of classes than the file's keeps its fresh values; anything else must fit.
    """
    tags = {row.tag for row in ROWS if row.model == name}
    if source is True or source in tags:
        row = find(name, "published" if source is True else source)
        path, whole = fetch(row), not row.base_only
    else:
        path, whole = Path(source), True
    tensors = own_keys(name, network, state_dict_of(read_checkpoint(path)))
    if isinstance(network, HarDNetTrunk):
        return load_weights(network, trunk_part(tensors), strict=False)
    fresh = _other_classes(network, tensors)
    tensors = {key: value for key, value in tensors.items() if key not in fresh}
    return load_weights(network, tensors, strict=whole and not fresh)


def own_keys(name: str, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under our names: official keys are converted, our own are left as they are."""
    if any(key in tensors or f"trunk.{key}" in tensors for key in network.state_dict()):
        return dict(tensors)
    converted, left = split_official(name, tensors)
    # what has no place stays under its own name, so that the loader reports it
    return converted | {key: tensors[key] for key in left}


def trunk_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a whole network that belong to its trunk, under the trunk's own names."""
    return {key.removeprefix("trunk."): value for key, value in tensors.items() if key.startswith("trunk.")}


def _other_classes(network: nn.Module, tensors: Mapping[str, Tensor]) -> set[str]:
    """Keys of the network's class predictions whose shape differs from the file's."""
    own = network.state_dict()
    return {
        key
        for key, value in tensors.items()
        if key.startswith(network.class_layers) and key in own and own[key].shape != value.shape
    }
