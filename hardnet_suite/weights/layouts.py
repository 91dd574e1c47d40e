"""Naming schemes of weights files: how each program that has a network of the suite names its tensors.

A layout is data: for each kind of architecture the prefixes of its keys, which follow from the network as it
is built, a table of parts of names, changes of values, and what the program computes otherwise than the row
of the architecture table, such as another activation. From these follow the keys of a file, the way there and
back, identification, and the architecture that a file implies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn

from hardnet_suite.networks import (
    PREPROCESS,
    Arch,
    CenterNetArch,
    DescriptorArch,
    FCHarDNetArch,
    HarDBlock,
    HarDNetArch,
    MSEGArch,
    Preprocess,
    SSDArch,
    build_network,
    find_arch,
)
from hardnet_suite.networks.factory import NETWORKS
from hardnet_suite.weights.tables import is_counter

Prefixes = Mapping[str, str]
ValueChange = Callable[[Arch, str, Tensor, bool], Tensor]


@dataclass(frozen=True, eq=False)
class KeyLayout:
    """A naming scheme of weights files.

    Attributes:
        name: name of the scheme.
        program: what writes such files, for messages.
        prefixes: for each kind of architecture, module of our network -> module of theirs, from the network;
            modules that are not among them are not in such files.
        parts: part of a name behind the prefix -> theirs, where they differ.
        value: changes a tensor of theirs to ours: (row, our key, tensor, to_theirs) -> tensor.
        suits: whether their program has a row of these kinds.
        arch: the architecture that their program computes with, from the row of the table.
        preprocess: the input rule that their program trains with, from that of the published model.
        counters: whether files have the batch norms' counters.
        records: whether files have a place for records beside the tensors, such as class names.
        source: address of the program; empty for the suite's own schemes, and the authors', who have several.
        licence: of the program and, unless it says otherwise, of its weights.
        told: whether the keys of a file differ from those of every other scheme. Otherwise the file is read
            in this one only where the user, or its metadata, says so.
    """

    name: str
    program: str
    prefixes: Mapping[type, Callable[[nn.Module], Prefixes]]
    parts: Mapping[str, str] = field(default_factory=dict)
    value: ValueChange = lambda row, key, value, to_theirs: value
    suits: Callable[[Arch], bool] = lambda row: True
    arch: Callable[[Arch], Arch] = lambda row: row
    preprocess: Callable[[Preprocess], Preprocess] = lambda rule: rule
    counters: bool = True
    records: bool = True
    source: str = ""
    licence: str = ""
    told: bool = True

    def has(self, name: str) -> bool:
        """Whether the program has the model ``name``."""
        row = find_arch(name)
        return type(row) in self.prefixes and self.suits(row)

    def arch_of(self, name: str, arch: Arch | None = None) -> Arch | None:
        """The architecture that a file of model ``name`` implies; None for the row of the table.

        Args:
            name: name of the model.
            arch: architecture of the same type, such as one of other widths, in place of the row.
        """
        row = arch or find_arch(name)
        implied = self.arch(row)
        return None if implied == row else implied

    def preprocess_of(self, name: str) -> Preprocess | None:
        """The input rule that a file of model ``name`` implies; None for that of the published model."""
        usual = PREPROCESS[name]
        implied = self.preprocess(usual)
        return None if implied == usual else implied

    def rename(self, key: str, prefixes: Prefixes) -> str | None:
        """A key of our network in this scheme; None where no prefix fits."""
        parts = key.split(".")
        for cut in range(len(parts), 0, -1):
            prefix = prefixes.get(".".join(parts[:cut]))
            if prefix is not None:
                return ".".join(
                    [*filter(None, [prefix]), *(self.parts.get(part, part) for part in parts[cut:])]
                )
        return None


@cache
def prefixes_of(name: str, layout: KeyLayout, arch: Arch | None = None) -> Prefixes:
    """The prefixes of a scheme for the network ``name``, or for a record in place of its row."""
    with torch.device("meta"):
        network = build_network(name, arch=arch)
    return layout.prefixes[type(network.arch)](network)


@cache
def keys_of(name: str, layout: KeyLayout, arch: Arch | None = None) -> dict[str, str]:
    """Our key -> theirs, for the keys that both have; of the network ``name``, or a record in its place."""
    with torch.device("meta"):
        keys = build_network(name, arch=arch).state_dict()
    prefixes = prefixes_of(name, layout, arch)
    theirs = {key: layout.rename(key, prefixes) for key in keys if layout.counters or not is_counter(key)}
    return {ours: key for ours, key in theirs.items() if key is not None}


def layouts_of(name: str) -> Iterator[KeyLayout]:
    """The schemes that a file of the model ``name`` may have by its keys, the suite's own first."""
    return (layout for layout in LAYOUTS.values() if layout.told and layout.has(name))


def find_layout(name: str) -> KeyLayout:
    """The scheme of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in LAYOUTS:
        raise ValueError(f"target={name!r} is unknown; allowed: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


# --------------------------------------------------------------------------- the suite and the authors


def _own(network: nn.Module) -> Prefixes:
    first = (key.split(".")[0] for key in network.state_dict())
    return {name: name for name in first}


def _official(network: nn.Module) -> Prefixes:
    return network.official_prefixes


def _roll_background(row: Arch, key: str, value: Tensor, to_theirs: bool) -> Tensor:
    """SSD's class convolutions hold the background first in the official files, last here and in mmdet."""
    if not (isinstance(row, SSDArch) and key.startswith("cls.")):
        return value
    boxes = row.priors.per_location[int(key.split(".")[1])]
    if not value.ndim or value.shape[0] % boxes:  # of no SSD: the loader says so
        return value
    return value.unflatten(0, (boxes, -1)).roll(1 if to_theirs else -1, dims=1).flatten(0, 1)


_KINDS = (HarDNetArch, SSDArch, CenterNetArch, FCHarDNetArch, MSEGArch, DescriptorArch)
OWN = KeyLayout("network", "this suite", dict.fromkeys(_KINDS, _own))
OFFICIAL = KeyLayout(
    "official",
    "the authors' programs",
    dict.fromkeys(_KINDS, _official),
    value=_roll_background,
    licence="MIT",
)

# ------------------------------------------------------------------------------------------- OpenMMLab

_SSD_IN_MMDET = {
    "trunk": "backbone.trunk",
    "neck": "neck",
    "cls": "bbox_head.cls_convs",
    "box": "bbox_head.reg_convs",
}
_CENTERNET_IN_MMDET = {
    "trunk": "backbone.trunk",
    "decoder": "neck",
    "hm": "bbox_head.hm",
    "wh": "bbox_head.wh",
}
_SEGMENTATION_IN_MMSEG = {
    "trunk": "backbone.trunk",
    "decoder": "decode_head.decoder",
    "classifier": "decode_head.conv_seg",
}
_CLASSIFIER_IN_MMENGINE = {"trunk": "network.trunk", "fc": "network.fc"}
_DESCRIPTOR_IN_MMENGINE = {name: f"network.{name}" for name in ("features", "components", "mean")}


def _always(prefixes: Prefixes) -> Callable[[nn.Module], Prefixes]:
    return lambda network: prefixes


OPENMM = {
    "mmdet": KeyLayout(
        "mmdet",
        "mmdet, with this suite's models",
        {SSDArch: _always(_SSD_IN_MMDET), CenterNetArch: _always(_CENTERNET_IN_MMDET)},
    ),
    "mmseg": KeyLayout(
        "mmseg",
        "mmsegmentation, with this suite's models",
        dict.fromkeys((FCHarDNetArch, MSEGArch), _always(_SEGMENTATION_IN_MMSEG)),
    ),
    "mmengine": KeyLayout(
        "mmengine",
        "mmengine, with this suite's models",
        {
            HarDNetArch: _always(_CLASSIFIER_IN_MMENGINE),
            DescriptorArch: _always(_DESCRIPTOR_IN_MMENGINE),
        },
    ),
}

# -------------------------------------------------------------------------------------- other programs


def _pytorchcv(network: nn.Module) -> Prefixes:
    """Stages of pytorchcv end with a downsampling, and hold one unit per stage of ours."""
    names = {"fc": "output.fc", "trunk.stem_down": "features.init_block.downsample"}
    for index in range(len(network.trunk.stem)):
        names[f"trunk.stem.{index}"] = f"features.init_block.conv{index + 1}"
    stage, unit = 1, 0
    for index, (record, module) in enumerate(zip(network.arch.stages, network.trunk.stages, strict=True)):
        unit += 1
        ours, theirs = f"trunk.stages.{index}", f"features.stage{stage}.unit{unit}"
        names[f"{ours}.transition"] = f"{theirs}.conv"
        names[f"{ours}.down"] = f"{theirs}.downsample"
        for layer in range(len(module.block.layers)):
            names[f"{ours}.block.layers.{layer}"] = f"{theirs}.blocks.block{layer + 1}"
        if record.downsample:
            stage, unit = stage + 1, 0
    return names


def _in_order(network: nn.Module) -> Prefixes:
    """Of a graph: convolutions are numbered as they are computed."""
    trunk, convolutions = network.trunk, []
    convolutions += [f"stem.{index}" for index in range(len(trunk.stem))]
    convolutions += ["stem_down"] if network.arch.depthwise else []
    for index, stage in enumerate(trunk.stages):
        for layer in range(len(stage.block.layers)):
            name = f"stages.{index}.block.layers.{layer}"
            convolutions += [f"{name}.layer1", f"{name}.layer2"] if network.arch.depthwise else [name]
        convolutions.append(f"stages.{index}.transition")
        if isinstance(stage.down, nn.Sequential):  # not a pooling
            convolutions.append(f"stages.{index}.down")
    return {f"trunk.{name}": f"conv{number}" for number, name in enumerate(convolutions)} | {"fc": "fc"}


def _trunk_alone(network: nn.Module) -> Prefixes:
    return {ours: theirs for ours, theirs in network.official_prefixes.items() if ours.startswith("trunk.")}


def _relu_in_blocks(row: Arch) -> Arch:
    """Of pytorchcv: 3×3 convolutions in blocks have ReLU, whatever stem and transitions have."""
    return row if row.depthwise else replace(row, block_act="relu")


def _linear_transposed(row: Arch, key: str, value: Tensor, to_theirs: bool) -> Tensor:
    """Paddle's linear layers hold (in, out)."""
    return value.t() if key == "fc.weight" and value.ndim == 2 else value


def _with_relu6(row: Arch) -> Arch:
    return replace(row, trunk=replace(row.trunk, act="relu6"))


def _rgb(rule: Preprocess) -> Preprocess:
    """The same numbers per colour, in the order of torchvision's images."""
    return replace(rule, channels="rgb", mean=rule.mean[::-1], std=rule.std[::-1])


def _rgb_of_minus_1_to_1(rule: Preprocess) -> Preprocess:
    return replace(rule, channels="rgb", mean=(0.5,) * 3, std=(0.5,) * 3)


def _rgb_of_0_to_1(rule: Preprocess) -> Preprocess:
    return replace(rule, channels="rgb", scale=255.0, mean=(0.0,) * 3, std=(1.0,) * 3)


_PADDLE_PARTS = {"running_mean": "_mean", "running_var": "_variance"}


def _paddle_detection(row: Arch) -> Arch:
    """ReLU6, and average pooling that does not count the padding, as is Paddle's default."""
    return replace(row, trunk=replace(row.trunk, act="relu6", pool="average_inside"))


def _paddleseg(network: nn.Module) -> Prefixes:
    """The stem of the authors' numbered trunk is apart, what follows is numbered from 0 again."""
    stem = len(network.arch.trunk.stem) + len(network.arch.trunk.stem_down)
    names = {
        "conv1x1_up": "decoder.conv1x1_up",
        "denseBlocksUp": "decoder.dense_blocks_up",
        "finalConv": "cls_head",
    }
    for theirs in network.official_prefixes.values():
        if theirs.startswith("base."):
            number = int(theirs.removeprefix("base."))
            names[theirs] = f"stem.{number}" if number < stem else f"encoder.blks.{number - stem}"
    return {ours: names[theirs] for ours, theirs in network.official_prefixes.items() if theirs in names}


@cache
def _segments(row: Arch) -> dict[str, list[int]]:
    """Key of a block's convolution -> channels of each map that it reads, nearest first."""
    with torch.device("meta"):
        network = NETWORKS[type(row)](row)
    segments = {}
    for name, block in network.named_modules():
        if isinstance(block, HarDBlock):
            widths = [block.layers[0].conv.in_channels, *(layer.conv.out_channels for layer in block.layers)]
            for index, links in enumerate(block.links):
                segments[f"{name}.layers.{index}.conv.weight"] = [widths[link] for link in links]
    return segments


def _farthest_first(row: Arch, key: str, value: Tensor, to_theirs: bool) -> Tensor:
    """PaddleSeg's blocks join the maps that a layer reads in the opposite order."""
    widths = _segments(row).get(key)
    if widths is None or value.ndim != 4 or value.shape[1] != sum(widths):
        return value
    return torch.cat(value.split(widths if to_theirs else widths[::-1], 1)[::-1], 1)


def _paddleseg_arch(row: Arch) -> Arch:
    """Stages from stride 2, strided convolutions padded on one side, corners that are not aligned."""
    trunk = replace(row.trunk, stem_stride=1, same_padding=True)
    return replace(row, trunk=trunk, align_corners=False)


FOREIGN = {
    "pytorchcv": KeyLayout(
        "pytorchcv",
        "pytorchcv",
        {HarDNetArch: _pytorchcv},
        parts={"norm": "bn", "dwconv": "conv", "layer1": "pw_conv", "layer2": "dw_conv"},
        arch=_relu_in_blocks,
        source="https://github.com/osmr/pytorchcv",
        licence="MIT",
    ),
    "paddleclas": KeyLayout(
        "paddleclas",
        "PaddleClas",
        {HarDNetArch: _official},
        parts=_PADDLE_PARTS,
        value=_linear_transposed,
        counters=False,
        records=False,
        source="https://github.com/PaddlePaddle/PaddleClas",
        licence="Apache-2.0",
    ),
    # the whole detector of PaddleDetection, FairMOT, is another: its trunk alone is read in this scheme
    "paddledetection": KeyLayout(
        "paddledetection",
        "PaddleDetection",
        {CenterNetArch: _trunk_alone},
        parts=_PADDLE_PARTS,
        arch=_paddle_detection,
        preprocess=_rgb_of_0_to_1,
        counters=False,
        records=False,
        source="https://github.com/PaddlePaddle/PaddleDetection",
        licence="Apache-2.0",
    ),
    # the tensors of ``graphs.graph_tensors``
    "onnx": KeyLayout(
        "onnx", "an exporter to ONNX", {HarDNetArch: _in_order}, parts={"dwconv": "conv"}, counters=False
    ),
    "semantic-segmentation": KeyLayout(
        "semantic-segmentation",
        "sithu31296/semantic-segmentation",
        {FCHarDNetArch: _official},
        suits=lambda row: row.up != "transposed" and row.detail is None and row.align_corners,
        arch=_with_relu6,
        preprocess=_rgb,
        source="https://github.com/sithu31296/semantic-segmentation",
        licence="MIT",
        told=False,
    ),
    "paddleseg": KeyLayout(
        "paddleseg",
        "PaddleSeg",
        {FCHarDNetArch: _paddleseg},
        parts=_PADDLE_PARTS | {"conv": "_conv", "norm": "_batch_norm"},
        value=_farthest_first,
        suits=lambda row: row.up != "transposed" and row.detail is None,
        arch=_paddleseg_arch,
        preprocess=_rgb_of_minus_1_to_1,
        counters=False,
        records=False,
        source="https://github.com/PaddlePaddle/PaddleSeg",
        licence="Apache-2.0",
    ),
}


LAYOUTS: dict[str, KeyLayout] = {
    layout.name: layout for layout in (OWN, *OPENMM.values(), OFFICIAL, *FOREIGN.values())
}
