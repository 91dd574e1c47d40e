"""Every variant is a row of data: the architecture table.

Adding a model adds a row here, never a branch in the code. A width or depth that is not in the table is
built from a record of one's own:
``create_model("hardnet68", arch=dataclasses.replace(ARCHS["hardnet68"], …))``.

Source of the figures: HarDNet (Chao et al., ICCV 2019, arXiv 1909.00948), HardNet (Mishchuk et al.,
NIPS 2017, arXiv 1705.10872) and their published programs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """One HarDBlock with its 1×1 transition, and whether the map is halved after it."""

    growth: int
    layers: int
    channels: int
    downsample: bool = False


@dataclass(frozen=True)
class HarDNetArch:
    """A HarDNet trunk, and the classifier on it.

    ``stem``: widths of the convolutions at stride 2. ``stem_down``: widths of those that lead to stride 4, in
    place of a pool. ``growth_mul``: the width multiplier m of a harmonic link.
    ``depthwise``: 1×1 + depthwise 3×3 pairs in place of 3×3 convolutions, strided ones in place of pools.
    ``last_dropout``: the dropout before the last stage's transition. ``first_pool_ceil``: the first pool
    after a stage rounds odd sizes up.
    """

    stem: tuple[int, ...]
    stages: tuple[Stage, ...]
    growth_mul: float = 1.7
    depthwise: bool = False
    act: str = "relu6"
    pool: str = "max"
    first_pool_ceil: bool = False
    stem_down: tuple[int, ...] = ()
    dropout: float = 0.1
    last_dropout: float = 0.0
    num_classes: int = 1000


@dataclass(frozen=True)
class Bridge:
    """Max-pool 3×3 stride 1, then 3×3 and 1×1 convolutions of ``mid`` and ``out`` channels.

    ``official``: where the published checkpoints keep them, ours -> theirs.
    """

    mid: int
    out: int
    dilation: int
    official: tuple[tuple[str, str], ...] = (("conv1", "bridge.1"), ("conv2", "bridge.2"))


@dataclass(frozen=True)
class Extra:
    """One extra SSD level: a 1×1 convolution to ``mid``, then a strided one to ``out`` channels."""

    mid: int
    out: int
    kernel: int = 3
    stride: int = 2
    padding: int = 1


@dataclass(frozen=True)
class Priors:
    """SSD's default boxes: per level a small size, the next level's size, and the extra aspect ratios.

    ``sizes`` (pixels) has one entry more than there are levels: level i spans sizes[i]…sizes[i+1].
    ``strides`` (pixels) gives the distance of neighbouring centres.
    """

    sizes: tuple[float, ...]
    ratios: tuple[tuple[int, ...], ...]
    strides: tuple[float, ...]

    @property
    def per_location(self) -> tuple[int, ...]:
        """Number of boxes at a location, one entry a level: two squares and two boxes a ratio."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)


@dataclass(frozen=True)
class SSDArch:
    """An SSD on a trunk: feature maps of the trunk by stride, the bridge, the extra levels and the priors."""

    trunk: HarDNetArch
    size: int
    bridge: Bridge
    extras: tuple[Extra, ...]
    priors: Priors
    source_strides: tuple[int, int] = (8, 16)
    l2norm_scale: float = 20.0
    num_classes: int = 80


@dataclass(frozen=True)
class CenterNetStep:
    """One step of CenterNet's decoder: a 1×1 convolution to ``channels``, then a HarDBlock with context.

    ``skip``: whether the trunk's map of this size joins before the convolution. ``shortcut``: how many of
    the ``channels`` go past the block to the decoder's output.
    """

    channels: int
    growth: int
    layers: int
    skip: bool = True
    shortcut: int = 0


@dataclass(frozen=True)
class FCHarDNetArch:
    """An FC-HarDNet: the encoder ``trunk`` and its mirror image, back to the stride of the first stage.

    ``last_channels``: of the 1×1 convolution between the two. Each step back joins the trunk's map of that
    size, halves the channels by a 1×1 convolution, and has a HarDBlock like the stage of that size.
    """

    trunk: HarDNetArch
    last_channels: int
    num_classes: int = 19


@dataclass(frozen=True)
class CenterNetArch:
    """A CenterNet on a trunk: what comes at stride 32 (``last``), then the ``steps`` back to stride 4.

    A branch of n outputs has a 3×3 convolution of max(least_width, 4·n) channels before its last.
    """

    trunk: HarDNetArch
    last: CenterNetStep
    steps: tuple[CenterNetStep, ...]
    least_width: int = 128
    num_classes: int = 80


@dataclass(frozen=True)
class DescriptorArch:
    """HardNet, the patch descriptor: 3×3 convolutions, then one as large as what is left of the patch.

    ``layers``: (width, stride) of each 3×3 convolution. ``patch``: side of a patch in pixels. ``length``: of
    a descriptor. ``affine``: convolutions with bias, batch norms with weight and bias. ``last_norm``: a batch
    norm at the very end.
    """

    layers: tuple[tuple[int, int], ...]
    patch: int = 32
    length: int = 128
    affine: bool = False
    dropout: float = 0.3
    last_norm: bool = True


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
# ours, unpublished: the demo's, which a CPU trains in minutes
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
    """The trunk as SSD takes it: without the last stage, plain ReLU, the first pool rounding up."""
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


def _small_ssd(trunk: HarDNetArch, size: int, *, bridge: int) -> SSDArch:
    """A light SSD: the priors grow with the image, the map is halved from level to level."""
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


_DESCRIPTOR = DescriptorArch(layers=((32, 1), (32, 1), (64, 2), (64, 1), (128, 2), (128, 1)))

Arch = HarDNetArch | SSDArch | CenterNetArch | FCHarDNetArch | DescriptorArch

ARCHS: dict[str, Arch] = {
    "hardnet39ds": _HARDNET39DS,
    "hardnet68ds": replace(_HARDNET68, depthwise=True, dropout=0.05),
    "hardnet68": _HARDNET68,
    "hardnet85": _HARDNET85,
    "ssd512_hardnet68": _SSD512,
    "ssd512_hardnet85": replace(
        _SSD512, trunk=_detection_trunk(_HARDNET85), bridge=Bridge(mid=960, out=720, dilation=1)
    ),
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
    "fchardnet70": FCHarDNetArch(
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
    ),
    # HardNet of NIPS 2017, another network than HarDNet
    "hardnet_descriptor": _DESCRIPTOR,
    # … and as Mitra et al. trained it on their PS data set (arXiv 1801.01466)
    "hardnet_descriptor_ps": replace(_DESCRIPTOR, affine=True, dropout=0.0, last_norm=False),
    # small and quick: for demonstrations, first steps and machines without a GPU (no published weights)
    "ssd224_hardnet29": _small_ssd(_HARDNET29, 224, bridge=192),
    "ssd320_hardnet39ds": _small_ssd(_HARDNET39DS, 320, bridge=256),
}
