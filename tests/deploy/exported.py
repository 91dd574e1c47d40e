"""Exported files that several tests open."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hardnet_suite import create_model
from hardnet_suite.deploy.record import ExportRecord
from hardnet_suite.networks import ARCHS, PREPROCESS, default_usage


def a_record(name: str = "fchardnet70", **changes) -> ExportRecord:
    """The record of a file of any size, with changes."""
    record = ExportRecord(
        usage=default_usage(name),
        arch=ARCHS[name],
        num_classes=19,
        in_chans=3,
        input_shape=("N", 3, "H", "W"),
        outputs=("logits",),
    )
    return replace(record, **changes)


def lively(name: str, num_classes: int | None = None) -> nn.Module:
    """A network with random weights, and statistics of random images."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=num_classes).train()
    side = PREPROCESS[name].size or 64
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(2, 3, side, side))
    return network.eval()


def regraft(path: Path, target: Path, text: str) -> Path:
    """A copy of an exported TorchScript file with another record."""
    import zipfile

    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            is_record = entry.filename.endswith("/extra/hardnet_suite.json")
            new.writestr(entry, text if is_record else old.read(entry))
    return target
