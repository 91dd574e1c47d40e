"""Networks of other packages that the suite's are timed beside, with random weights."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from hardnet_suite.errors import UserError
from hardnet_suite.inference.precision import usual_size
from hardnet_suite.networks import Arch, DescriptorArch, FCHarDNetArch, Preprocess, default_usage, find_arch
from hardnet_suite.weights.row import WeightsRow

_PUBLISHED = Path(__file__).with_name("published.csv")
_METRICS = {  # in the words of the weights registry -> as charts name them
    r"ImageNet top-1 ([\d.]+)": "ImageNet top-1",
    r"COCO test-dev mAP ([\d.]+)": "COCO mAP",
    r"Cityscapes val mIoU ([\d.]+)": "Cityscapes mIoU",
}


class PublishedFigure(NamedTuple):
    """A figure that others report for a model, in percent, at which (height, width), and where."""

    metric: str
    value: float
    size: tuple[int, int]
    source: str


@dataclass(frozen=True)
class Peer:
    """A network of another package.

    Attributes:
        package: of PyPI.
        task: "classification", "detection", "segmentation" or "descriptor".
        size: (height, width) of its usual input.
        build: makes it, as it is meant to be deployed.
        in_chans: channels of its input.
    """

    package: str
    task: str
    size: tuple[int, int]
    build: Callable[[], nn.Module]
    in_chans: int = 3

    def require_package(self, name: str) -> None:
        """UserError where the package is missing."""
        if find_spec(self.package) is None:
            raise UserError(f"{name} is a network of {self.package}: pip install {self.package}")


class DetectorMaps(nn.Module):
    """A torchvision SSD's raw maps, as the suite's networks return theirs: no resizing and no suppression."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.head(list(self.backbone(images).values()))


class SegmentationLogits(nn.Module):
    """The logits of a torchvision segmentation network, without the dict around them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)["out"]


def _classifier(name: str) -> nn.Module:
    return import_module("torchvision.models").get_model(name, weights=None)


def _detector(name: str) -> nn.Module:
    build = getattr(import_module("torchvision.models.detection"), name)
    return DetectorMaps(build(weights=None, weights_backbone=None))


def _segmentor(name: str) -> nn.Module:
    build = getattr(import_module("torchvision.models.segmentation"), name)
    return SegmentationLogits(build(weights=None, weights_backbone=None))


def _timm(name: str) -> nn.Module:
    """A classifier of timm; one with branches for training gets its form for inference."""
    network = import_module("timm").create_model(name, pretrained=False)
    return import_module("timm.utils.model").reparameterize_model(network)


def _kornia_hardnet() -> nn.Module:
    return import_module("kornia.feature").HardNet(pretrained=False)


_STREET = (1024, 2048)
PEERS: dict[str, Peer] = {
    **{
        name: Peer("torchvision", "classification", (224, 224), partial(_classifier, name))
        for name in ("resnet50", "resnet101", "vgg16", "mobilenet_v2", "mobilenet_v3_large")
    },
    **{
        name: Peer("timm", "classification", (224, 224), partial(_timm, name))
        for name in ("hgnetv2_b4", "repvit_m1_1")
    },
    "ssd300_vgg16": Peer("torchvision", "detection", (300, 300), partial(_detector, "ssd300_vgg16")),
    "ssdlite320_mobilenet_v3_large": Peer(
        "torchvision", "detection", (320, 320), partial(_detector, "ssdlite320_mobilenet_v3_large")
    ),
    **{
        name: Peer("torchvision", "segmentation", _STREET, partial(_segmentor, name))
        for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50")
    },
    "kornia_hardnet": Peer("kornia", "descriptor", (32, 32), _kornia_hardnet, in_chans=1),
}


def peers_of(task: str) -> list[str]:
    """Names of the peers of a task whose packages are installed."""
    return [name for name, peer in PEERS.items() if peer.task == task and find_spec(peer.package) is not None]


def own_size(arch: Arch, rule: Preprocess) -> tuple[int, int]:
    """(height, width) of the usual input of one of the suite's networks."""
    if isinstance(arch, DescriptorArch):
        return arch.patch, arch.patch
    if rule.height_width is None and isinstance(arch, FCHarDNetArch):
        return _STREET
    return usual_size(rule)


def published(model: str | WeightsRow) -> PublishedFigure | None:
    """The published accuracy of one of the suite's models, of a peer or of weights; None: there is none."""
    return _published().get(model) if isinstance(model, str) else _of_row(model)


def _of_row(row: WeightsRow) -> PublishedFigure | None:
    for pattern, metric in _METRICS.items():
        if number := re.fullmatch(pattern, row.metric):
            size = own_size(find_arch(row.model), default_usage(row.model).preprocess)
            return PublishedFigure(metric, float(number[1]), size, f"weights {row.tag!r}: {row.source}")
    return None


@cache
def _published() -> dict[str, PublishedFigure]:
    from hardnet_suite.weights.registry import ROWS

    figures: dict[str, PublishedFigure] = {}
    for row in ROWS:
        if row.model not in figures and (figure := _of_row(row)) is not None:
            figures[row.model] = figure
    with _PUBLISHED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            size = int(row["height"]), int(row["width"])
            figures[row["model"]] = PublishedFigure(row["metric"], float(row["value"]), size, row["source"])
    return figures
