"""Names to networks with weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardnet_suite.names import known_name
from hardnet_suite.networks import Arch, build_network, find_arch, list_models
from hardnet_suite.weights import open_weights
from hardnet_suite.weights.checkpoint import INPUT_IS_UNKNOWN
from hardnet_suite.weights.filling import fill_what_fits, input_channels


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool | str | Path | None = False,
    arch: Arch | None = None,
    features_only: bool | str = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
    drop_rate: float | None = None,
    global_pool: str | None = None,
) -> nn.Module:
    """Builds a network as a plain torch module, with or without trained weights.

    Args:
        name: one of ``list_models()``; case, hyphens and underscores may differ.
        num_classes: number of classes. Default: that of ``arch`` where it states another than the table's
            row, else that of the weights, else as published (ImageNet 1000, COCO 80, Cityscapes 19). With
            ``features_only`` there are none: 0 or None.
        in_chans: channels of the input. Default: those of the weights, else 3 (the patch descriptor: 1).
            Weights for three channels are adapted to other numbers as timm does.
        pretrained: False or None for random values, True for the published weights, a tag of the weights
            registry, or a path.
        arch: a record in place of the row of ``name`` in the architecture table, of the same type. Default:
            what the weights imply, as the files of some programs belong to networks with other activations.
        features_only: build the trunk alone, which returns a list of feature maps, one per stride (2, 4, 8,
            16, 32). True or "transition" takes them after each stage's 1×1 convolution, "block" before it.
        out_indices: a sequence, which of these maps; 0 is stride 2, -1 the last.
        output_stride: of classifiers and trunks, the largest stride of a map: 8, 16 or 32. Stages beyond it
            have dilated convolutions instead of a lower resolution, and the same weights. Default: that of
            the architecture.
        drop_rate: of classifiers, the dropout probability before the last layer. Default: that of the
            architecture.
        global_pool: of classifiers, "avg" (default), or "" with 0 classes: unpooled features.

    Returns:
        The network, in training mode as torch modules are. A whole network knows how it is used
        (``network.usage``: its input and output rule and the names of its classes), so that ``predict`` takes
        it.

    Raises:
        ValueError: an unknown name, tap, index or output stride, or a count that is not an integer in range.
        UserError: the weights are unavailable or do not fit.

    Warns:
        UserWarning: some parameters keep their initial values: the class predictions where ``num_classes``
            differs from the file's, or what a file of a trunk alone lacks. Or nothing says how images become
            inputs, as of weights of a graph, or of a .pdparams of other classes than the published one.
    """
    name = known_name(name, list_models()) or name
    row, weights = find_arch(name), None
    if num_classes is None and arch is not None and not features_only:
        stated = getattr(arch, "num_classes", None)  # the patch descriptor has no classes
        num_classes = None if stated == getattr(row, "num_classes", None) else stated
    if pretrained is not False and pretrained is not None:
        weights = open_weights(pretrained, name, arch=arch)
        arch = weights.arch
        in_chans = weights.in_chans if in_chans is None else in_chans
        if num_classes is None and not features_only:
            num_classes = weights.num_classes or None  # 0: a patch descriptor
    build = partial(
        build_network,
        name,
        num_classes=num_classes,
        arch=arch,
        features_only=features_only,
        out_indices=out_indices,
        output_stride=output_stride,
        drop_rate=drop_rate,
        global_pool=global_pool,
    )
    if weights is not None and in_chans is None:  # a trunk, alone or in a larger network
        with torch.device("meta"):
            in_chans = input_channels(build(), weights)
    network: Any = build(in_chans=in_chans)
    if weights is not None:
        if features_only:
            network.preprocess = weights.preprocess or network.preprocess
        else:
            names_fit = network.num_classes == weights.num_classes
            network.usage = replace(
                network.usage,
                preprocess=weights.preprocess or network.usage.preprocess,
                postprocess=weights.postprocess or network.usage.postprocess,
                classes=weights.classes if names_fit else None,
                palette=weights.palette if names_fit else None,
            )
        if weights.input_is_unknown and not features_only:
            warnings.warn(
                f"{weights.path}: {INPUT_IS_UNKNOWN}; until network.usage = replace(network.usage, "
                "preprocess=…) states it, the network has the rule of the published weights",
                stacklevel=2,
            )
        report = fill_what_fits(network, weights)
        if report.missing:
            warnings.warn(f"{name}: {report}", stacklevel=2)
    return network
