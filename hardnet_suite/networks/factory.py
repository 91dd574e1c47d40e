"""Builds networks by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hardnet_suite.names import did_you_mean, matching
from hardnet_suite.networks.arch import (
    ARCHS,
    Arch,
    CenterNetArch,
    DescriptorArch,
    FCHarDNetArch,
    HarDNetArch,
    MSEGArch,
    SSDArch,
)
from hardnet_suite.networks.centernet import CenterNet
from hardnet_suite.networks.descriptor import PatchDescriptor
from hardnet_suite.networks.fchardnet import FCHarDNet
from hardnet_suite.networks.hardnet import HarDNetClassifier, HarDNetTrunk, last_stages
from hardnet_suite.networks.mseg import MSEG
from hardnet_suite.networks.postprocess import default_postprocess
from hardnet_suite.networks.preprocess import PREPROCESS
from hardnet_suite.networks.ssd import SSD
from hardnet_suite.networks.usage import Usage
from hardnet_suite.numeric import is_count

NETWORKS = {
    HarDNetArch: HarDNetClassifier,
    SSDArch: SSD,
    CenterNetArch: CenterNet,
    FCHarDNetArch: FCHarDNet,
    MSEGArch: MSEG,
    DescriptorArch: PatchDescriptor,
}
_NO_HEAD = {"num_classes": 0, "drop_rate": 0, "global_pool": ""}


def list_models(pattern: str | Sequence[str] | None = None) -> list[str]:
    """Sorted names of the available models.

    Args:
        pattern: Wildcards as in file names, such as "*hardnet68*", or several of them; where nothing matches,
            case, hyphens and underscores may differ. None: all models.

    Returns:
        The names that match a pattern; none is an empty list.

    Raises:
        ValueError: A pattern that is not a string.
    """
    if pattern is None:
        return sorted(ARCHS)
    patterns = [pattern] if isinstance(pattern, str) else pattern
    if not isinstance(patterns, Iterable) or not all(isinstance(each, str) for each in patterns):
        raise ValueError(f"expected a pattern such as '*hardnet68*', or a list of them, got {pattern!r}")
    return sorted({name for each in patterns for name in matching(each, ARCHS)})


def find_arch(name: str) -> Arch:
    """The row of the architecture table with this name.

    Raises:
        ValueError: Unknown name; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in ARCHS:
        raise ValueError(
            f"unknown model {name!r}; {did_you_mean(name, ARCHS)}known: {', '.join(list_models())}"
        )
    return ARCHS[name]


def trunk_arch(name: str) -> HarDNetArch:
    """The HarDNet trunk of a model: of a classifier its own row, otherwise the trunk it is built on.

    Raises:
        ValueError: Unknown name, or the patch descriptor, which is not a HarDNet.
    """
    return _trunk_of(name, find_arch(name))


def _trunk_of(name: str, row: Arch) -> HarDNetArch:
    if isinstance(row, DescriptorArch):
        raise ValueError(f"{name!r} has no HarDNet trunk: it is a patch descriptor")
    return row if isinstance(row, HarDNetArch) else row.trunk


def feature_channels(
    name: str, out_indices: Sequence[int] = (1, 2, 3, 4), tap: str = "transition"
) -> list[int]:
    """Channels of a trunk's feature maps, for the config of what reads them.

    Args:
        name: A name of ``list_models()``; a detector's gives the detector's trunk.
        out_indices: As of ``HarDNetTrunk``: 0 … 4 for the strides 2, 4, 8, 16 and 32.
        tap: "transition" or "block", as of ``HarDNetTrunk``.

    Raises:
        ValueError: Unknown name, index or tap.
    """
    with torch.device("meta"):
        return HarDNetTrunk(trunk_arch(name), out_indices=out_indices, tap=tap).channels


def build_network(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    arch: Arch | None = None,
    features_only: bool | str = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
    drop_rate: float | None = None,
    global_pool: str | None = None,
) -> nn.Module:
    """Builds a network with random weights.

    Args:
        name: A name of ``list_models()``.
        num_classes: Number of classes; default: that of the architecture. With ``features_only`` none but 0.
        in_chans: Number of input channels; default: that of the network.
        arch: A record to use instead of the table's row, of the same type.
        features_only: Return the trunk, whose ``forward`` returns feature maps. A string selects the tap,
            "transition" (True means this) or "block".
        out_indices: With ``features_only``, the feature maps to return; default: one per stride.
        output_stride: Of classifiers and trunks, the largest stride of a map: 8, 16 or 32; dilated
            convolutions replace the downsampling beyond it. Default: that of the architecture.
        drop_rate: Of classifiers, the dropout probability before the last layer. Default: that of the
            architecture.
        global_pool: Of classifiers, "avg" (default), or "" with 0 classes: no pooling.

    Raises:
        ValueError: Unknown name, or invalid or contradictory arguments.
    """
    row = find_arch(name)
    if arch is not None:
        if type(arch) is not type(row):
            raise ValueError(f"arch for {name!r} must be a {type(row).__name__}, got {type(arch).__name__}")
        row = arch
    least_classes = 0 if features_only or isinstance(row, HarDNetArch) else 1
    for argument, value, least in (("num_classes", num_classes, least_classes), ("in_chans", in_chans, 1)):
        if value is not None and not is_count(value, least=least):
            raise ValueError(f"{argument}={value!r} must be an integer of at least {least}")
    channels: dict[str, Any] = (
        {} if in_chans is None else {"in_chans": int(in_chans)}
    )  # each network has its own default
    own = {"output_stride": output_stride, "drop_rate": drop_rate, "global_pool": global_pool}
    options: dict[str, Any] = {option: value for option, value in own.items() if value is not None}
    if features_only:
        require_no_head({"num_classes": num_classes, "drop_rate": drop_rate, "global_pool": global_pool})
        options = {} if output_stride is None else {"output_stride": output_stride}
        trunk = _trunk_of(name, row)
        tap = features_only if isinstance(features_only, str) else "transition"
        chosen = range(len(last_stages(trunk))) if out_indices is None else out_indices
        network = HarDNetTrunk(trunk, **channels, out_indices=chosen, tap=tap, **options)
        network.preprocess = default_usage(name, row).preprocess
        return network
    if out_indices is not None:
        raise ValueError("out_indices requires features_only=True")
    if options and not isinstance(row, HarDNetArch):
        raise ValueError(f"{name!r} is no classifier: {', '.join(sorted(options))} cannot be given")
    classes = None if num_classes is None else int(num_classes)  # NumPy's would not be scripted or saved
    network = NETWORKS[type(row)](row, num_classes=classes, **channels, **options)
    network.usage = default_usage(name, row)
    return network


def require_no_head(options: Mapping[str, Any]) -> None:
    """Checks that nothing is asked of the classifier's head where there are feature maps only.

    Args:
        options: num_classes, drop_rate and global_pool, as far as they are given; None is not. What states
            that there is no head passes: 0 classes, no dropout, no pooling.

    Raises:
        ValueError: Any other value.
    """
    wanted = [name for name, none in _NO_HEAD.items() if options.get(name) not in (None, none)]
    if wanted:
        raise ValueError(f"{', '.join(sorted(wanted))} cannot be given with features_only")


def default_usage(name: str, row: Arch | None = None) -> Usage:
    """How the published model is used: its name, preprocessing and postprocessing.

    Args:
        name: A name of ``list_models()``.
        row: A record to use instead of the table's row.
    """
    row = find_arch(name) if row is None else row
    preprocess = PREPROCESS[name]
    if isinstance(row, SSDArch):
        preprocess = replace(preprocess, size=row.size)
    return Usage(name, preprocess, default_postprocess(row))
