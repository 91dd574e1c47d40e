"""CenterNet on a HarDNet trunk (Objects as Points: Zhou et al. 2019, arXiv 1904.07850).

The decoder and the dense targets are those of CenterNet-HarDNet, which differ from the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from hardnet_suite.networks.arch import CenterNetArch
from hardnet_suite.networks.hardblock import HarDBlock
from hardnet_suite.networks.hardnet import HarDNetTrunk
from hardnet_suite.networks.layers import (
    ConvNormAct,
    at_least_float32,
    checked_images,
    enlarge,
    init_weights,
    is_meta,
)

torch.fx.wrap("at_least_float32")
torch.fx.wrap("checked_images")

INPUT_MULTIPLE = 32  # of the input's sides, in pixels
OUTPUT_STRIDE = 4  # input pixels per output pixel
HM_BIAS = -2.19  # sigmoid(−2.19) = 0.1: most cells contain no centre


class ContextConcat(nn.Module):
    """Concatenates a feature map with local and global context: (N, C, H, W) -> (N, 3·C, H, W).

    In this order: the map itself, its 9×9 average (including the zero padding), and the map divided by
    (its sum over all pixels + 0.1).
    """

    def forward(self, x: Tensor) -> Tensor:
        return cat([x, F.avg_pool2d(x, 9, stride=1, padding=4), share_of_sum(x)], 1)


def share_of_sum(x: Tensor) -> Tensor:
    """The map divided by (its sum over all pixels + 0.1): (N, C, H, W) -> (N, C, H, W)."""
    wide = at_least_float32(x)  # half precision is too coarse for a sum over thousands of pixels
    return (wide / (wide.sum((2, 3), keepdim=True) + 0.1)).to(x.dtype)


class CenterNetDecoder(nn.Module):
    """The U-shaped decoder.

    ``forward`` takes the trunk's block outputs at the indices of ``source_indices``, finest first, and
    returns (N, channels, H/4, W/4). Each step upsamples the map by 2, concatenates the trunk's map if the
    step has ``skip``, and reduces the channels with a 1×1 convolution. ``shortcut`` of these channels go
    directly to the output, the others through a HarDBlock with context.

    Args:
        arch: The detector's row of the architecture table.
        in_channels: Channels of the trunk's maps, finest first.

    Attributes:
        channels: Number of output channels.

    Raises:
        ValueError: ``in_channels`` does not have one entry per map.
    """

    def __init__(self, arch: CenterNetArch, in_channels: list[int] | tuple[int, ...]):
        super().__init__()
        expected = len(source_indices(arch))
        if len(in_channels) != expected:
            raise ValueError(f"expected in_channels with {expected} entries, one per map, got {in_channels}")
        growth_mul, act = arch.trunk.growth_mul, arch.trunk.act
        multiple, block_act = arch.trunk.width_multiple, arch.trunk.block_act or act
        self.arch = arch
        self.skips = [step.skip for step in arch.steps]
        self.shortcuts = [step.shortcut for step in arch.steps]
        self.context = ContextConcat()
        self.last_proj = ConvNormAct(in_channels[-1], arch.last.channels, 1, act=act)
        self.down = nn.AvgPool2d(2)
        self.last_block = HarDBlock(
            3 * arch.last.channels,
            arch.last.growth,
            growth_mul,
            arch.last.layers,
            act=block_act,
            width_multiple=multiple,
        )
        self.convs, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels, skips = self.last_block.out_channels, list(in_channels)
        for step in arch.steps:
            channels += skips.pop() if step.skip else 0
            self.convs.append(ConvNormAct(channels, step.channels, 1, act=act))
            block = HarDBlock(
                3 * (step.channels - step.shortcut),
                step.growth,
                growth_mul,
                step.layers,
                act=block_act,
                width_multiple=multiple,
            )
            self.blocks.append(block)
            channels = block.out_channels
        self.channels = channels + sum(step.shortcut for step in arch.steps)
        init_weights(self)

    def forward(self, maps: list[Tensor]) -> Tensor:
        x = self.last_block(self.context(self.down(self.last_proj(maps[-1]))))
        used = 0
        shortcuts: list[Tensor] = []
        for index, (conv, block) in enumerate(zip(self.convs, self.blocks)):  # noqa: B905  # TorchScript
            if self.skips[index]:
                used += 1
                x = cat([enlarge(x, maps[-used].shape[2:]), maps[-used]], 1)
            else:
                x = enlarge(x, [2 * x.shape[2], 2 * x.shape[3]])
            x = conv(x)
            kept = self.shortcuts[index]
            if kept:
                x, shortcut = x.split([x.shape[1] - kept, kept], 1)
                shortcuts.insert(0, shortcut)
            x = block(self.context(x))
        return cat([enlarge(shortcut, x.shape[2:]) for shortcut in shortcuts] + [x], 1)


def branch(in_channels: int, out: int, least_width: int, bias: float = 0.0) -> nn.Sequential:
    """An output branch: 3×3 convolution, ReLU, 1×1 convolution.

    Args:
        in_channels: Input channels.
        out: Output channels.
        least_width: Minimum number of channels between the two convolutions.
        bias: Initial bias of the 1×1 convolution.
    """
    width = max(least_width, 4 * out)
    layers = nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(width, out, 1)
    )
    init_weights(layers)
    if not is_meta(layers):
        nn.init.normal_(layers[-1].weight, std=0.001)
    nn.init.constant_(layers[-1].bias, bias)
    return layers


class CenterNet(nn.Module):
    """CenterNet detector: (N, in_chans, H, W) -> raw predictions at stride 4.

    ``forward`` takes inputs whose height and width are multiples of 32 and returns a dict with ``hm``:
    (N, num_classes, H/4, W/4) logits of the object centres; ``wh``: (N, 2, H/4, W/4) width and height; and
    ``reg``: (N, 2, H/4, W/4) the (x, y) offset of the centre within its cell. ``wh`` and ``reg`` are in
    output pixels.

    Args:
        arch: A row of the architecture table.
        num_classes: Number of classes; default: that of ``arch``.
        in_chans: Number of input channels.
    """

    class_layers = ("hm.",)  # prefixes of the parameters that depend on the number of classes

    def __init__(self, arch: CenterNetArch, *, num_classes: int | None = None, in_chans: int = 3):
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes if num_classes is None else num_classes
        self.multiple = INPUT_MULTIPLE
        self.trunk = HarDNetTrunk(
            arch.trunk, in_chans=in_chans, out_indices=source_indices(arch), tap="block"
        )
        self.decoder = CenterNetDecoder(arch, self.trunk.channels)
        self.hm = branch(self.decoder.channels, self.num_classes, arch.least_width, bias=HM_BIAS)
        self.wh = branch(self.decoder.channels, 4, arch.least_width)

    @property
    @torch.jit.unused
    def official_prefixes(self) -> dict[str, str]:
        names = {f"trunk.{ours}": theirs for ours, theirs in self.trunk.official_prefixes.items()}
        names |= {"decoder.last_proj": "last_proj", "decoder.last_block": "last_blk"}
        names |= {"decoder.convs": "conv1x1_up", "decoder.blocks": "denseBlocksUp"}
        return names | {"hm": "hm", "wh": "wh"}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = checked_images(x, self.trunk.in_chans, 0, self.multiple)
        x = self.decoder(self.trunk(x))
        return branch_outputs(self.hm(x), self.wh(x))


def branch_outputs(hm: Tensor, wh: Tensor) -> dict[str, Tensor]:
    """What ``CenterNet.forward`` returns, of the outputs of the two branches."""
    size, offset = wh.split(2, 1)  # (N, 4, h, w) -> 2 × (N, 2, h, w)
    return {"hm": hm, "wh": size, "reg": offset}


def average_flipped(hm: Tensor, wh: Tensor, reg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Averages the predictions for images and for their mirror images: (2·N, C, h, w) -> (N, C, h, w).

    The first N maps are those of the images, the last N those of the horizontally flipped images.

    Args:
        hm: (2·N, num_classes, h, w) probabilities, after the sigmoid.
        wh: (2·N, 2, h, w) sizes in output pixels.
        reg: (2·N, 2, h, w) offsets within a cell; x of a flipped image corresponds to 1 − x.
    """

    def mean(maps: Tensor) -> Tensor:
        straight, mirrored = maps.chunk(2)
        return (straight + mirrored.flip(3)) / 2

    straight, mirrored = reg.chunk(2)
    mirrored = mirrored.flip(3)
    x = (straight[:, :1] + 1 - mirrored[:, :1]) / 2
    y = (straight[:, 1:] + mirrored[:, 1:]) / 2
    return mean(hm), mean(wh), cat([x, y], 1)


def source_indices(arch: CenterNetArch) -> tuple[int, ...]:
    """The trunk's ``out_indices`` for the maps that the decoder takes, finest first."""
    return tuple(range(4 - sum(step.skip for step in arch.steps), 4))


def targets(boxes: Tensor, classes: Tensor, num_classes: int, size: tuple[int, int]) -> dict[str, Tensor]:
    """Training targets of one image, as in CenterNet-HarDNet.

    A box's window is the square of cells within ``gaussian_radius`` of its centre's cell. A cell in several
    windows belongs to the box with the largest weight there; ties go to the later box. Boxes without width or
    height, and boxes with their centre outside the map, are dropped.

    Args:
        boxes: (K, 4) x1, y1, x2, y2 in output pixels (input pixels / ``OUTPUT_STRIDE``), clipped to the map
            by the caller. K may be 0; all targets are zero then.
        classes: (K,) integers in [0, num_classes).
        num_classes: Number of classes.
        size: (h, w) of the output map.

    Returns:
        A dict of tensors on the device of ``boxes``, in float32 (float64 if the boxes are):

        - ``hm``: (num_classes, h, w) in [0, 1], a Gaussian around each centre's cell, exactly 1 at that cell;
          where two of the same class overlap, their maximum;
        - ``wh``: (2, h, w) width and height of the box that a cell belongs to, in output pixels; 0 elsewhere;
        - ``off``: (2, h, w) offset (x, y) from a cell to the centre of its box, likewise;
        - ``weight``: (2, h, w) in [0, 1], two equal channels: the weights of a box sum to 1 over its window
          (less at the border of the map and where cells belong to another box).

    Raises:
        ValueError: Unexpected shapes or dtypes, a class out of range, or a box that is not finite.
    """
    height, width = size
    _check_targets(boxes, classes, num_classes, height, width)
    dtype = torch.promote_types(boxes.dtype, torch.float32)
    boxes = boxes.to(dtype)
    wh, centre = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2
    ends = torch.tensor([width, height], device=boxes.device)
    kept = ((wh > 0) & (centre >= 0) & (centre < ends)).all(1)
    wh, centre, classes = wh[kept], centre[kept], classes[kept].long()

    # the P cells of all windows inside the map, as one flat list: window sizes differ too much for padding
    radius = gaussian_radius(wh[:, 0], wh[:, 1])
    cell = centre.long()
    first = (cell - radius[:, None]).clamp(min=0)
    span = torch.minimum(cell + radius[:, None] + 1, ends) - first  # (K, 2) columns, rows
    count = span.prod(1)
    owner = torch.arange(len(count), device=boxes.device).repeat_interleave(count)  # (P,)
    step = torch.arange(len(owner), device=boxes.device) - (count.cumsum(0) - count)[owner]
    columns = span[owner, 0]
    xy = first[owner] + torch.stack([step % columns, step // columns], 1)  # (P, 2)
    place = xy[:, 1] * width + xy[:, 0]
    square = (xy - cell[owner]).square().sum(1)

    diameter = (2 * radius + 1).double()
    hm = boxes.new_zeros(num_classes * height * width)
    peaks = _gaussian(square, (diameter / 6)[owner]).to(dtype)
    hm.scatter_reduce_(0, classes[owner] * height * width + place, peaks, "amax")

    # sum over the whole window, cells outside the map included: a separable Gaussian, so a row's sum squared
    reach = max(radius.tolist(), default=0)
    line = torch.arange(-reach, reach + 1, device=boxes.device).square()
    total = _gaussian(line, (diameter / 24)[:, None]).sum(1).square()
    weights = (_gaussian(square, (diameter / 24)[owner]) / total[owner]).to(dtype)
    weight = boxes.new_zeros(height * width).scatter_reduce_(0, place, weights, "amax")
    largest = weights == weight[place]
    owners = torch.full_like(weight, -1, dtype=torch.long)
    owners.scatter_reduce_(0, place[largest], owner[largest], "amax")

    owned = (owners >= 0).nonzero().squeeze(1)
    owners = owners[owned]
    dense = boxes.new_zeros(2, 2, height * width)  # wh and off
    dense[0, :, owned] = wh[owners].T
    dense[1, :, owned] = (centre[owners] - torch.stack([owned % width, owned // width], 1)).T
    dense = dense.view(2, 2, height, width)
    return {
        "hm": hm.view(num_classes, height, width),
        "wh": dense[0],
        "off": dense[1],
        "weight": weight.view(1, height, width).repeat(2, 1, 1),
    }


def gaussian_radius(width: Tensor, height: Tensor, min_overlap: float = 0.7) -> Tensor:
    """Radius of the Gaussian around a box's centre.

    This is the formula that the published CenterNet checkpoints were trained with: sizes are rounded up, and
    the roots of CornerNet's three quadratics are divided by 2 instead of 2a. The radius is therefore larger
    than the one that guarantees ``min_overlap``, and the third root is always the smallest: it is at most
    (width + height) / 4, the other two are at least (width + height) / 2.

    Args:
        width: (K,) positive widths in output pixels.
        height: (K,) positive heights in output pixels.
        min_overlap: IoU parameter of the formula, in (0, 1).

    Returns:
        (K,) int64 radii in cells.

    Raises:
        ValueError: ``min_overlap`` is out of range.
    """
    if not 0 < min_overlap < 1:
        raise ValueError(f"min_overlap must lie in (0, 1), got {min_overlap}")
    # float64 and this order of operations: the floor must agree with the official program's
    width, height = width.double().ceil(), height.double().ceil()
    b = -2 * min_overlap * (height + width)
    c = (min_overlap - 1) * width * height
    return ((b + (b**2 - 4 * (4 * min_overlap) * c).sqrt()) / 2).long()


def decode(hm: Tensor, wh: Tensor, reg: Tensor, k: int = 100) -> Tensor:
    """Decodes the network's maps into the ``k`` best detections per image.

    A detection is a cell whose score is the maximum of its 3×3 neighbourhood within its class. If an image
    has fewer than ``k``, the remaining rows are other cells with score 0. No control flow depends on the
    values, so the function can be exported.

    Args:
        hm: (N, C, h, w) scores in [0, 1], after the sigmoid.
        wh: (N, 2, h, w) as returned by `CenterNet`.
        reg: (N, 2, h, w) as returned by `CenterNet`.
        k: Maximum number of detections per image.

    Returns:
        (N, min(k, C·h·w), 6) rows of x1, y1, x2, y2 in output pixels (not clipped to the map), score and
        class, by decreasing score; float32 (float64 if an input is).

    Raises:
        ValueError: Unexpected shapes, or ``k`` < 1.
    """
    if hm.ndim != 4 or 0 in hm.shape[1:]:
        raise ValueError(f"expected non-empty hm of shape (N, C, h, w), got {tuple(hm.shape)}")
    n, _, height, width = hm.shape
    for name, dense in (("wh", wh), ("reg", reg)):
        if dense.shape != (n, 2, height, width):
            raise ValueError(
                f"expected {name} of shape {(n, 2, height, width)}, the size of hm, got {tuple(dense.shape)}"
            )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    # half precision cannot represent coordinates in the hundreds exactly
    dtype = torch.promote_types(torch.promote_types(hm.dtype, wh.dtype), torch.float32)
    is_peak = F.max_pool2d(hm, 3, stride=1, padding=1) == hm
    scores = torch.where(is_peak, hm, 0).flatten(1)
    scores, index = scores.topk(min(k, scores.shape[1]))  # (N, k)
    # divisions alone: ONNX's exporter knows no remainder of a size that is free
    labels = index // (height * width)
    place = index - labels * (height * width)
    y = place // width
    at = place[:, None].expand(-1, 2, -1)
    half = wh.to(dtype).flatten(2).gather(2, at) / 2  # (N, 2, k)
    centre = torch.stack([place - y * width, y], 1) + reg.to(dtype).flatten(2).gather(2, at)
    rows = [centre - half, centre + half, scores[:, None].to(dtype), labels[:, None].to(dtype)]
    return cat(rows, 1).transpose(1, 2)  # (N, 6, k) -> (N, k, 6)


def _gaussian(square: Tensor, sigma: Tensor) -> Tensor:
    """exp(-square / (2·sigma²)) in float64, with the official program's cut-off to 0."""
    values = (-square / (2 * sigma**2)).exp()
    return values.where(values >= torch.finfo(torch.float64).eps, 0)


def _check_targets(boxes: Tensor, classes: Tensor, num_classes: int, height: int, width: int) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(
            f"expected floating-point boxes of shape (K, 4), got {tuple(boxes.shape)}, {boxes.dtype}"
        )
    if classes.shape != boxes.shape[:1] or classes.is_floating_point():
        raise ValueError(
            f"expected integer classes of shape ({len(boxes)},), got {tuple(classes.shape)}, {classes.dtype}"
        )
    if min(num_classes, height, width) < 1:
        raise ValueError(f"num_classes={num_classes} and size={(height, width)} must be at least 1")
    if not boxes.isfinite().all():
        raise ValueError(f"boxes must be finite, got {boxes[~boxes.isfinite().all(1)][0].tolist()}")
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if len(wrong):
        raise ValueError(f"classes must lie in [0, {num_classes}), got {wrong[0].item()}")
