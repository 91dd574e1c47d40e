"""The architecture table: every variant is a row of data.

Adding a model adds a row here, never a branch in the code. For a width or depth that is not in the table,
pass a custom record: ``create_model("hardnet68", arch=dataclasses.replace(ARCHS["hardnet68"], …))``. Records
check their values: one of another type or out of range is a ValueError that names its field.

Sources: HarDNet (Chao et al., ICCV 2019, arXiv 1909.00948), HardNet (Mishchuk et al., NIPS 2017,
arXiv 1705.10872) and their official implementations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hardnet_suite.networks.layers import ACTIVATIONS, POOLS
from hardnet_suite.numeric import is_integer, is_number, require_count, require_number

# of the numbers of all records: counts are at least 1 and others greater than 0, but for these
_FROM_ZERO = {
    "HarDNetArch.num_classes",
    "Extra.padding",
    "Field.reach",
    "FCHarDNetArch.last_channels",
    "CenterNetStep.shortcut",
}
_PROBABILITIES = {"HarDNetArch.dropout", "HarDNetArch.last_dropout", "DescriptorArch.dropout"}
MOST = 1 << 24  # of every number: PyTorch counts the elements of a weight in 64 bits
_NOT_EMPTY = {"HarDNetArch.stem", "MSEGArch.kernels", "DescriptorArch.layers"}


@dataclass(frozen=True)
class _PlainRecord:
    """What all rows and their parts have in common: their values are checked when they are made."""

    def __post_init__(self) -> None:
        for field in fields(self):
            where = f"{type(self).__name__}.{field.name}"
            value = _as_type(getattr(self, field.name), _hints(type(self))[field.name], where)
            object.__setattr__(self, field.name, value)  # tuples of what may have been lists
            if where in _NOT_EMPTY and not value:
                raise ValueError(f"{where} must not be empty")
            _require_in_range(where, value, where)


def _require_in_range(name: str, value: Any, where: str) -> None:
    """Checks the numbers of a field.

    Args:
        name: The record and its field.
        value: A number, a tuple of values, or anything else.
        where: The same as ``name``, with the places in tuples.

    Raises:
        ValueError: A number is out of range.
    """
    if isinstance(value, tuple):
        for index, each in enumerate(value):
            _require_in_range(name, each, f"{where}[{index}]")
    elif name in _PROBABILITIES:
        require_number(where, value, 0, 1)
    elif type(value) is int:
        require_count(where, value, 0 if name in _FROM_ZERO else 1)
    elif type(value) is float and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{where} must be a finite number greater than 0, got {value!r}")
    if type(value) in (int, float) and value > MOST:
        raise ValueError(f"{where} must be at most {MOST}, got {repr(value)[:40]}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_record(value: Any, kind: Any) -> bool:
    """Whether a value of JSON has a record's fields; those with a default came later, and may be missing."""
    if not is_dataclass(kind) or not isinstance(value, Mapping):
        return False
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    return needed <= set(value) <= {field.name for field in fields(kind)}


def _as_type(value: Any, kind: Any, where: str) -> Any:
    """A value, or that of JSON, as a type of the rows: a dataclass, tuple, number, string or boolean."""
    if _is_record(value, kind):
        return kind(**{key: _as_type(value[key], _hints(kind)[key], f"{where}.{key}") for key in value})
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = get_args(kind)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return tuple(_as_type(each, kinds[0], where) for each in value)
        if len(kinds) == len(value):
            return tuple(_as_type(each, own, where) for each, own in zip(value, kinds, strict=True))
    elif isinstance(kind, UnionType):  # X | None, or records that differ in the names of their fields
        kinds = get_args(kind)
        if value is None and NoneType in kinds:
            return None
        if type(value) in kinds:
            return value
        return _as_type(value, next((each for each in kinds if _is_record(value, each)), kinds[0]), where)
    elif type(value) is kind:
        return value
    elif kind is int and is_integer(value):  # of NumPy
        return int(value)
    elif kind is float and (isinstance(value, float) or is_number(value)):
        return float(value)
    shown = getattr(kind, "__name__", kind) if get_origin(kind) is None else kind
    raise ValueError(f"{where} is {repr(value)[:100]}, expected {shown}")


@dataclass(frozen=True)
class Stage(_PlainRecord):
    """One HarDBlock and its 1×1 transition.

    Attributes:
        growth: Growth rate of the block.
        layers: Number of convolution layers in the block.
        channels: Output channels of the transition.
        downsample: Whether the feature map is downsampled by 2 after the transition.
        keep_input: Whether the output of the block includes its input, as DenseNet's does.
    """

    growth: int
    layers: int
    channels: int
    downsample: bool = False
    keep_input: bool = False


@dataclass(frozen=True)
class HarDNetArch(_PlainRecord):
    """A HarDNet trunk and its classifier.

    Attributes:
        stem: Widths of the convolutions at stride ``stem_stride``.
        stages: The stages, from ``stem_stride`` · ``first_step`` on.
        growth_mul: Width multiplier m of a harmonic link.
        width_multiple: What the widths of the blocks' layers are rounded to a multiple of; 2 in the published
            networks, 16 where they are aligned with the tiles of matrix units.
        depthwise: Use pairs of a 1×1 and a depthwise 3×3 convolution instead of 3×3 convolutions, and strided
            depthwise convolutions instead of pooling.
        act: Activation, a key of ``layers.ACTIVATIONS``.
        block_act: Activation of the blocks' layers where it is another than ``act``, that of stem and
            transitions.
        pool: Pooling, a key of ``layers.POOLS``; there is none in depthwise networks.
        first_pool_ceil: Round odd sizes up in the first pooling after a stage; without effect if depthwise.
        stem_stride: Stride of the first convolution; 1 keeps the resolution of the image, for small images.
        first_step: Downsampling between the stem and the stages: 2, or 1 for none.
        stem_down: Widths of the convolutions that lead from the stem to the stages, the first with stride
            ``first_step``; empty: pooling, or nothing where ``first_step`` is 1.
        same_padding: Pad the strided convolution of ``stem_down`` as "SAME" of TensorFlow and Paddle does: a
            side of even length only at its end.
        dropout: Dropout probability of the classifier.
        last_dropout: Dropout probability before the transition of the last stage.
        num_classes: Number of classes of the published classifier.
    """

    stem: tuple[int, ...]
    stages: tuple[Stage, ...]
    growth_mul: float = 1.7
    width_multiple: int = 2
    depthwise: bool = False
    act: str = "relu6"
    block_act: str | None = None
    pool: str = "max"
    first_pool_ceil: bool = False
    stem_stride: int = 2
    first_step: int = 2
    stem_down: tuple[int, ...] = ()
    same_padding: bool = False
    dropout: float = 0.1
    last_dropout: float = 0.0
    num_classes: int = 1000

    def __post_init__(self) -> None:
        if self.stem_stride not in (1, 2) or self.first_step not in (1, 2):
            raise ValueError(
                f"stem_stride={self.stem_stride} and first_step={self.first_step} must be 1 or 2 each"
            )
        super().__post_init__()
        for what, value, known in (
            ("act", self.act, ACTIVATIONS),
            ("block_act", self.act if self.block_act is None else self.block_act, ACTIVATIONS),
            ("pool", self.pool, POOLS),
        ):
            if value not in known:
                raise ValueError(f"{what}={value!r} is unknown; allowed: {', '.join(known)}")
        if self.same_padding and not (self.stem_down and self.first_step == 2):
            raise ValueError("same_padding=True requires stem_down and first_step=2")


@dataclass(frozen=True)
class Bridge(_PlainRecord):
    """SSD's bridge: 3×3 max pooling with stride 1, then a 3×3 and a 1×1 convolution.

    Attributes:
        mid: Output channels of the 3×3 convolution.
        out: Output channels of the 1×1 convolution.
        dilation: Dilation of the 3×3 convolution.
        official: Key prefixes of the two convolutions: (ours, that of the published checkpoints).
    """

    mid: int
    out: int
    dilation: int
    official: tuple[tuple[str, str], ...] = (("conv1", "bridge.1"), ("conv2", "bridge.2"))


@dataclass(frozen=True)
class Extra(_PlainRecord):
    """One extra SSD level: a 1×1 convolution to ``mid`` channels, then a strided one to ``out`` channels.

    With ``norm`` both have a batch norm and no bias, as in RFB Net.
    """

    mid: int
    out: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1
    norm: bool = False


@dataclass(frozen=True)
class Field(_PlainRecord):
    """One extra level of RFB Net: a receptive field block.

    Attributes:
        out: Output channels.
        stride: Stride.
        reach: The two branches end with 3×3 convolutions of dilation ``reach`` + 1 and 2 · ``reach`` + 1.
    """

    out: int
    stride: int = 2
    reach: int = 2


@dataclass(frozen=True)
class Priors(_PlainRecord):
    """SSD's default boxes.

    Attributes:
        sizes: Box sizes in pixels, one more than there are levels: level i spans sizes[i] to sizes[i + 1].
        ratios: Extra aspect ratios per level.
        strides: Distance between neighbouring box centres in pixels, per level.
    """

    sizes: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]
    strides: tuple[float, ...]

    @property
    def per_location(self) -> tuple[int, ...]:
        """Number of boxes per location, one entry per level: two squares and two boxes per ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


@dataclass(frozen=True)
class SSDArch(_PlainRecord):
    """An SSD detector, or RFB Net, on a HarDNet trunk.

    Attributes:
        trunk: The trunk.
        size: Height and width of the input in pixels.
        bridge: The bridge on the second feature map; None: there is none.
        extras: The extra levels.
        priors: The default boxes.
        source_strides: Strides of the two feature maps taken from the trunk.
        l2norm_scale: Initial weight of the L2Norm on the first feature map; None with ``fields``.
        num_classes: Number of classes of the published detector, without the background.
        fields: Output channels of RFB Net's receptive field blocks on the two feature maps, that of the first
            in place of L2Norm, that of the second behind the bridge; None: there are none.
    """

    trunk: HarDNetArch
    size: int
    bridge: Bridge | None
    extras: tuple[Extra | Field, ...]
    priors: Priors
    source_strides: tuple[int, int] = (8, 16)
    l2norm_scale: float | None = 20.0
    num_classes: int = 80
    fields: tuple[int, int] | None = None


@dataclass(frozen=True)
class CenterNetStep(_PlainRecord):
    """One step of CenterNet's decoder: a 1×1 convolution, then a HarDBlock with context.

    Attributes:
        channels: Output channels of the 1×1 convolution.
        growth: Growth rate of the block.
        layers: Number of convolution layers in the block.
        skip: Whether the trunk's feature map of this size is concatenated before the convolution.
        shortcut: How many of the ``channels`` bypass the block and go to the decoder's output.
    """

    channels: int
    growth: int
    layers: int
    skip: bool = True
    shortcut: int = 0


@dataclass(frozen=True)
class FCHarDNetArch(_PlainRecord):
    """An FC-HarDNet: an encoder and a decoder that mirrors it, back to the stride of the first stage.

    Each decoder step enlarges the map, concatenates the encoder's feature map of that size and applies a
    HarDBlock like that of the stage of the same size.

    Attributes:
        trunk: The encoder.
        last_channels: Output channels of the 1×1 convolution between encoder and decoder; 0 with ``up``
            "transposed", which has none.
        up: How a step enlarges the map, a key of ``fchardnet.DECODERS``: "bilinear", followed by a 1×1
            convolution that halves the concatenated channels, or "transposed", a transposed 3×3 convolution
            with stride 2 and no 1×1 convolution, as in FC-DenseNet (Jégou et al. 2017, arXiv 1611.09326).
        align_corners: Of bilinear interpolation, also that of the logits.
        num_classes: Number of classes of the published network.
        detail: One more decoder step, with this HarDBlock, to the stem's stride and output; like those of the
            other steps, it has a growth rate and layers only: its ``channels``, ``downsample`` and
            ``keep_input`` have no meaning. None: the decoder ends at the stride of the first stage.
    """

    trunk: HarDNetArch
    last_channels: int
    up: str = "bilinear"
    align_corners: bool = True
    num_classes: int = 19
    detail: Stage | None = None


@dataclass(frozen=True)
class MSEGArch(_PlainRecord):
    """HarDNet-MSEG: a partial decoder on the trunk's three coarsest maps.

    Attributes:
        trunk: The trunk.
        channels: Width of the decoder.
        kernels: Kernel sizes of a receptive field block's branches, which are their dilations, too.
        num_classes: Number of classes of the published network.
    """

    trunk: HarDNetArch
    channels: int = 32
    kernels: tuple[int, ...] = (3, 5, 7)
    num_classes: int = 1

    @property
    def align_corners(self) -> bool:
        """Of the interpolation of the logits."""
        return False


@dataclass(frozen=True)
class CenterNetArch(_PlainRecord):
    """A CenterNet detector on a HarDNet trunk.

    Attributes:
        trunk: The trunk.
        last: The decoder's step at stride 32.
        steps: The decoder's further steps, back to stride 4.
        least_width: Minimum width of a branch: the 3×3 convolution of a branch with n outputs has
            max(least_width, 4·n) channels.
        num_classes: Number of classes of the published detector.
    """

    trunk: HarDNetArch
    last: CenterNetStep
    steps: tuple[CenterNetStep, ...]
    least_width: int = 128
    num_classes: int = 80


@dataclass(frozen=True)
class DescriptorArch(_PlainRecord):
    """HardNet, the patch descriptor: 3×3 convolutions, then one that spans the remaining feature map.

    Attributes:
        layers: (width, stride) of each 3×3 convolution.
        patch: Height and width of a patch in pixels.
        length: Length of a descriptor.
        affine: Convolutions have a bias, batch norms a weight and a bias.
        dropout: Dropout probability before the last convolution.
        last_norm: Whether a batch norm follows the last convolution.
        pca_from: Channels of the last convolution where a PCA reduces them to ``length``; None: no PCA, the
            last convolution has ``length`` channels.
    """

    layers: tuple[tuple[int, int], ...]
    patch: int = 32
    length: int = 128
    affine: bool = False
    dropout: float = 0.3
    last_norm: bool = True
    pca_from: int | None = None


_HARDNET39DS = HarDNetArch(
    stem=(24, 48),
    growth_mul=1.6,
    depthwise=True,
    dropout=0.05,
    stages=(
        Stage(growth=16, layers=4, channels=96, downsample=True),
        Stage(growth=20, layers=16, channels=320, downsample=True),
        Stage(growth=64, layers=8, channels=640, downsample=True),
        Stage(growth=160, layers=4, channels=1024),
    ),
)
_HARDNET68 = HarDNetArch(
    stem=(32, 64),
    stages=(
        Stage(growth=14, layers=8, channels=128, downsample=True),
        Stage(growth=16, layers=16, channels=256),
        Stage(growth=20, layers=16, channels=320, downsample=True),
        Stage(growth=40, layers=16, channels=640, downsample=True),
        Stage(growth=160, layers=4, channels=1024),
    ),
)
_HARDNET85 = HarDNetArch(
    stem=(48, 96),
    dropout=0.2,
    last_dropout=0.1,
    stages=(
        Stage(growth=24, layers=8, channels=192, downsample=True),
        Stage(growth=24, layers=16, channels=256),
        Stage(growth=28, layers=16, channels=320, downsample=True),
        Stage(growth=36, layers=16, channels=480),
        Stage(growth=48, layers=16, channels=720, downsample=True),
        Stage(growth=256, layers=4, channels=1280),
    ),
)
# our own, unpublished: HarDNet-68 at the same cost with fewer and wider layers, aligned with the tiles of
# matrix units
_HARDNET68A = replace(
    _HARDNET68,
    growth_mul=2.0,
    width_multiple=16,
    stages=(
        Stage(growth=32, layers=4, channels=128, downsample=True),
        Stage(growth=32, layers=4, channels=256),
        Stage(growth=64, layers=4, channels=320, downsample=True),
        Stage(growth=96, layers=4, channels=640, downsample=True),
        Stage(growth=160, layers=4, channels=1024),
    ),
)
# our own, unpublished: small enough for the demo to train on a CPU within minutes
_HARDNET29 = HarDNetArch(
    stem=(16, 32),
    stages=(
        Stage(growth=10, layers=8, channels=64, downsample=True),
        Stage(growth=14, layers=8, channels=128, downsample=True),
        Stage(growth=20, layers=8, channels=192, downsample=True),
        Stage(growth=80, layers=4, channels=320),
    ),
)


def _detection_trunk(arch: HarDNetArch) -> HarDNetArch:
    """The trunk as used by SSD: without the last stage, with ReLU, and rounding up in the first pooling."""
    return replace(arch, stages=arch.stages[:-1], act="relu", first_pool_ceil=True, last_dropout=0.0)


_SSD512 = SSDArch(
    trunk=_detection_trunk(_HARDNET68),
    size=512,
    bridge=Bridge(
        mid=640,
        out=640,
        dilation=4,
        official=(("conv1.conv", "base.13.1"), ("conv1.norm", "base.13.2"), ("conv2", "base.13.4")),
    ),
    extras=(
        Extra(256, 512),
        Extra(128, 256),
        Extra(128, 256),
        Extra(128, 256),
        Extra(128, 256, kernel=4, stride=1),
    ),
    priors=Priors(
        sizes=(20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
        ratios=((2, 3),) * 5 + ((2,),) * 2,
        strides=(8, 16, 32, 64, 128, 256, 512),
    ),
)

_RFB512 = replace(
    _SSD512,
    fields=(512, 1024),
    l2norm_scale=None,
    extras=(
        Field(512),
        Field(256),
        Field(256, reach=1),
        Field(256, reach=1),
        Extra(128, 256, kernel=4, stride=1, norm=True),
    ),
)


def _small_ssd(trunk: HarDNetArch, size: int, *, bridge: int) -> SSDArch:
    """A light SSD: priors scale with the input size, each level halves the resolution."""
    cells = [math.ceil(size / 2**n) for n in range(3, 9)]
    return SSDArch(
        trunk=_detection_trunk(trunk),
        size=size,
        bridge=Bridge(mid=bridge, out=bridge, dilation=1),
        extras=(Extra(128, 256), Extra(128, 256), Extra(128, 256), Extra(128, 256)),
        priors=Priors(
            sizes=tuple(size * part for part in (0.05, 0.1, 0.2, 0.35, 0.525, 0.725, 0.95)),
            ratios=((2, 3),) * 4 + ((2,),) * 2,
            strides=tuple(size / count for count in cells),
        ),
    )


_FCHARDNET70 = FCHarDNetArch(
    trunk=HarDNetArch(
        stem=(16, 24),
        stem_down=(32, 48),
        act="relu",
        pool="average",
        stages=(
            Stage(growth=10, layers=4, channels=64, downsample=True),
            Stage(growth=16, layers=4, channels=96, downsample=True),
            Stage(growth=18, layers=8, channels=160, downsample=True),
            Stage(growth=24, layers=8, channels=224, downsample=True),
            Stage(growth=32, layers=8, channels=320),
        ),
    ),
    last_channels=320,
)


def _fc_dense(stem: int, stages: tuple[tuple[int, int, int], ...]) -> FCHarDNetArch:
    """A network of the paper's CamVid experiments (section 4.1): FC-DenseNet with HarDBlocks.

    The paper states the first convolution, the depths and growth rates (table 3). Transitions keep the number
    of channels, blocks of the encoder but the last keep their input, and the decoder enlarges by transposed
    convolutions, as in FC-DenseNet: so the numbers of layers, parameters and multiply-adds agree with the
    published ones. Where the paper says nothing: convolution, batch norm and ReLU in this order, and no
    dropout.

    Args:
        stem: Width of the first convolution.
        stages: (growth, layers, channels) of each stage.
    """
    *encoder, bottom = (Stage(*stage, downsample=True, keep_input=True) for stage in stages)
    last = replace(bottom, downsample=False, keep_input=False)
    return FCHarDNetArch(
        trunk=HarDNetArch(stem=(stem,), stem_stride=1, first_step=1, act="relu", stages=(*encoder, last)),
        last_channels=0,
        up="transposed",
        num_classes=11,
    )


_DESCRIPTOR = DescriptorArch(layers=((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)))

SegmentationArch = FCHarDNetArch | MSEGArch
Arch = HarDNetArch | SSDArch | CenterNetArch | SegmentationArch | DescriptorArch

ARCHS: dict[str, Arch] = {
    "hardnet39ds": _HARDNET39DS,
    # our own, unpublished: the same, with widths aligned with the tiles of matrix units
    "hardnet39dsa": replace(_HARDNET39DS, stem=(32, 48), width_multiple=16),
    "hardnet68ds": replace(_HARDNET68, depthwise=True, dropout=0.05),
    "hardnet68": _HARDNET68,
    "hardnet68a": _HARDNET68A,
    "hardnet85": _HARDNET85,
    "ssd512_hardnet68": _SSD512,
    "ssd512_hardnet85": replace(
        _SSD512, trunk=_detection_trunk(_HARDNET85), bridge=Bridge(mid=960, out=720, dilation=1)
    ),
    "rfb512_hardnet68": _RFB512,
    "rfb512_hardnet85": replace(_RFB512, trunk=_detection_trunk(_HARDNET85), bridge=None),
    "centernet_hardnet68": CenterNetArch(
        trunk=replace(_detection_trunk(_HARDNET68), pool="average"),
        last=CenterNetStep(channels=192, growth=72, layers=8, skip=False),
        steps=(
            CenterNetStep(channels=256, growth=48, layers=8, shortcut=32),
            CenterNetStep(channels=128, growth=32, layers=8, shortcut=32),
            CenterNetStep(channels=64, growth=20, layers=4, skip=False),
        ),
    ),
    "centernet_hardnet85": CenterNetArch(
        trunk=replace(_detection_trunk(_HARDNET85), pool="average"),
        last=CenterNetStep(channels=256, growth=80, layers=8, skip=False),
        steps=(
            CenterNetStep(channels=256, growth=64, layers=8, shortcut=32),
            CenterNetStep(channels=192, growth=48, layers=8, shortcut=32),
            CenterNetStep(channels=96, growth=28, layers=4),
        ),
    ),
    # the encoder of FC-HarDNet-70 as a classifier, to train it on ImageNet
    "hardnet_petite": _FCHARDNET70.trunk,
    "fchardnet70": _FCHARDNET70,
    # for small images and thin objects: the stem downsamples once, so that every map is twice as large
    "fchardnet70_stride2": replace(_FCHARDNET70, trunk=replace(_FCHARDNET70.trunk, stem_stride=1)),
    # for thin objects at a quarter more multiply-adds: the decoder goes on to the stem's map, at stride 2
    "fchardnet70_detail": replace(_FCHARDNET70, detail=Stage(growth=12, layers=2, channels=32)),
    # of PaddleSeg: the same stem, other padding and interpolation
    "fchardnet70_paddleseg": replace(
        _FCHARDNET70,
        trunk=replace(_FCHARDNET70.trunk, stem_stride=1, same_padding=True),
        align_corners=False,
    ),
    "fchardnet68": _fc_dense(8, ((4, 4, 28), (6, 4, 58), (8, 4, 98), (8, 4, 138), (10, 8, 228), (10, 8, 90))),
    "fchardnet76": _fc_dense(
        24, ((8, 4, 64), (10, 4, 112), (12, 4, 170), (12, 8, 276), (12, 8, 382), (14, 8, 124))
    ),
    "fchardnet84": _fc_dense(
        32, ((10, 4, 80), (12, 4, 138), (14, 8, 262), (16, 8, 404), (20, 8, 582), (22, 8, 196))
    ),
    # our own, unpublished: FC-HarDNet-70 at the same cost with fewer, wider and aligned layers
    "fchardnet70a": FCHarDNetArch(
        trunk=HarDNetArch(
            stem=(16, 32),
            stem_down=(32, 48),
            width_multiple=16,
            act="relu",
            pool="average",
            stages=(
                Stage(growth=16, layers=2, channels=64, downsample=True),
                Stage(growth=32, layers=2, channels=96, downsample=True),
                Stage(growth=32, layers=4, channels=160, downsample=True),
                Stage(growth=32, layers=8, channels=224, downsample=True),
                Stage(growth=48, layers=8, channels=320),
            ),
        ),
        last_channels=320,
    ),
    "hardnet_mseg": MSEGArch(trunk=_HARDNET68),
    # HardNet (NIPS 2017), unrelated to HarDNet
    "hardnet_descriptor": _DESCRIPTOR,
    # HardNet as trained by Mitra et al. on their PS data set (arXiv 1801.01466)
    "hardnet_descriptor_ps": replace(_DESCRIPTOR, affine=True, dropout=0.0, last_norm=False),
    # HardNet8 (Pultar, arXiv 2007.09699), as kornia has it
    "hardnet8_descriptor": replace(_DESCRIPTOR, layers=(*_DESCRIPTOR.layers, (256, 1)), pca_from=512),
    # small and fast, for demos, first steps and machines without a GPU; no published weights
    "ssd224_hardnet29": _small_ssd(_HARDNET29, 224, bridge=192),
    "ssd320_hardnet39ds": _small_ssd(_HARDNET39DS, 320, bridge=256),
    "centernet_hardnet39ds": CenterNetArch(
        trunk=_detection_trunk(_HARDNET39DS),
        last=CenterNetStep(channels=160, growth=40, layers=4, skip=False),
        steps=(
            CenterNetStep(channels=128, growth=28, layers=4, shortcut=16),
            CenterNetStep(channels=80, growth=20, layers=4, shortcut=16),
            CenterNetStep(channels=40, growth=12, layers=4),
        ),
        least_width=64,
    ),
}

_KINDS = {kind.__name__: kind for kind in get_args(Arch)}


def arch_to_dict(row: Arch) -> dict[str, Any]:
    """A row as numbers, strings, lists and dicts, with the name of its type under "kind"."""
    return {"kind": type(row).__name__} | asdict(row)


def arch_from_dict(values: Mapping[str, Any]) -> Arch:
    """The inverse of ``arch_to_dict``, also after a round trip through JSON.

    Raises:
        ValueError: anything else; a field that the record lacks has its default, as in records of earlier
            versions.
    """
    name = values.get("kind") if isinstance(values, Mapping) else None
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"not a row of the architecture table: {str(values)[:100]}")
    return _as_type({key: value for key, value in values.items() if key != "kind"}, kind, kind.__name__)
