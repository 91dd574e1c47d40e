"""Names to networks with weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from hardnet_suite.networks import Arch, build_network, list_models
from hardnet_suite.weights import classes_of, load_pretrained


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool | str | Path | None = False,
    arch: Arch | None = None,
    features_only: bool | str = False,
    out_indices: Sequence[int] | None = None,
) -> nn.Module:
    """The network of that name, as a plain torch module.

    num_classes: default as published (ImageNet 1000, COCO 80), or as the tag's or the file's weights have
    them.
    in_chans: default 3; weights for three channels are adapted to others, as timm does.
    pretrained: False or None, True (the published weights), a tag of the weights registry, or a path.
    arch: a record of one's own in place of the table's row, of the same kind.
    features_only: the trunk's maps as a list, one a stride (2, 4, 8, 16, 32): True or "transition" takes
    them after each stage's 1×1 convolution, "block" before it. out_indices picks from them, 0 is stride 2,
    -1 the last.

    Raises ValueError for an unknown name, tap or index, for counts that are no whole numbers, and
    UserError where weights are not to be had or do not fit. Warns of what kept its fresh values: the class
    predictions where num_classes differs from the file's, or what a file of a bare trunk lacks.
    """
    with_weights = pretrained is not False and pretrained is not None
    if num_classes is None and with_weights and not features_only and name in list_models():
        num_classes = classes_of(name, pretrained)
    network = build_network(
        name,
        num_classes=num_classes,
        in_chans=in_chans,
        arch=arch,
        features_only=features_only,
        out_indices=out_indices,
    )
    if with_weights:
        report = load_pretrained(network, name, pretrained)
        if report.missing:
            warnings.warn(f"{name}: {report}", stacklevel=2)
    return network
