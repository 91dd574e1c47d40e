"""A stand-in for ``mmcv._ext``, the compiled part of mmcv that mmcv-lite leaves out.

``mmcv.ops`` and with it ``mmdet.models`` cannot be imported without that module: every op file asserts that
its functions exist. This file *is* that module where no compiled one is installed: the finder in
``_hardnet_suite_mmcv`` loads it under that name, possibly before ``hardnet_suite.openmm`` is imported, so it
imports nothing from there and stays one file. It is built on ``torchvision.ops``. The functions keep the
calling convention of the C++ ones (mmcv 2.1.0, ``mmcv/ops/csrc/pytorch/pybind.cpp``): most fill a buffer
among their arguments and return nothing. Only ``mmcv.ops`` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from hardnet_suite.inference import nms as suppression
from hardnet_suite.networks.layers import at_least_float32 as _wide

# what is not provided: users -> the beginnings of the operators' names
NOT_PROVIDED = {
    "MMRotate (rotated boxes: S2ANet, R3Det, ReDet, Oriented R-CNN, Oriented RepPoints)": (
        *("active_rotated_filter", "box_iou_quadri", "box_iou_rotated", "convex_giou", "convex_iou"),
        *("diff_iou_rotated", "min_area_polygons", "nms_quadri", "nms_rotated", "points_in_polygons"),
        *("riroi_align_rotated", "roi_align_rotated", "rotated_feature_align"),
    ),
    "MMDetection3D (point clouds: PointNet++, VoteNet, PointPillars, SECOND, PV-RCNN, PAConv)": (
        *("assign_score_withk", "ball_query", "dynamic_point_to_voxel", "dynamic_voxelize"),
        *("furthest_point_sampling", "fused_indice", "gather_points", "get_indice_pairs", "group_points"),
        *("hard_voxelize", "indice_", "iou3d", "knn", "points_in_boxes", "roiaware_pool3d"),
        *("roipoint_pool3d", "stack_ball_query", "stack_group_points", "three_interpolate", "three_nn"),
    ),
    "MMOCR (scene text: ABCNet, PSENet, PAN)": ("bezier_align", "contour_expand", "pixel_group"),
    "MMagic (generators: StyleGAN2, StyleGAN3)": (
        *("bias_act", "filtered_lrelu", "fused_bias_leakyrelu", "upfirdn2d"),
    ),
    "MMAction2 and MMFlow (video: TIN, FlowNet, PWC-Net)": ("correlation", "tin_shift"),
    "BorderDet, PrRoIPool, RoIPool, MMSyncBN (no config of mmdet or mmseg)": (
        *("bbox_overlaps", "border_align", "chamfer_distance", "prroi_pool", "roi_pool", "sync_bn"),
    ),
}


def _users(operator: str) -> str:
    """Who needs an operator, for messages."""
    starts = {start: users for users, names in NOT_PROVIDED.items() for start in names}
    fitting = [start for start in starts if operator.startswith(start)]
    return f", which {starts[max(fitting, key=len)]} use," if fitting else ""


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """An op that is not provided; mmcv only asks whether an op exists, so the refusal waits for a call."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"the operator {name!r} of mmcv.ops{_users(name)} needs the compiled part of mmcv, which "
            "mmcv-lite lacks and hardnet_suite does not replace: choose a model without it, or install a "
            "compiled mmcv (>=2.1,<2.2) instead of mmcv-lite"
        )

    return refuse


def _gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of ``function(*tensors)``, run again since mmcv's autograd Functions keep no graph."""
    leaves = [_wide(tensor.detach()).requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        output = function(*leaves)
    if not output.requires_grad:  # of no region
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype), materialize_grads=True)


# --- non-maximum suppression


_SOFT_NMS_METHODS = ("naive", "linear", "gaussian")


def nms(boxes: Tensor, scores: Tensor, *, iou_threshold: float, offset: int) -> Tensor:
    return suppression.nms(boxes, scores, iou_threshold, offset=offset)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    *,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Fills the first rows of dets (N, 5), returns their indices."""
    keep, kept_scores = suppression.soft_nms(
        boxes,
        scores,
        iou_threshold,
        sigma=sigma,
        min_score=min_score,
        method=_SOFT_NMS_METHODS[method],
        offset=offset,
    )
    dets[: len(keep), :4], dets[: len(keep), 4] = boxes[keep], kept_scores
    return keep


def nms_match(dets: Tensor, *, iou_threshold: float) -> list[list[int]]:
    """Groups of indices into dets (N, 5): each kept box, then those it suppresses, by falling score."""
    dets = _wide(dets)
    order = dets[:, 4].argsort(descending=True, stable=True)
    groups = []
    while len(order):
        first, order = order[0], order[1:]
        hit = suppression.iou_with(dets[first, :4], dets[order, :4]) >= iou_threshold
        groups.append([int(first), *order[hit].tolist()])
        order = order[~hit]
    return groups


# --- RoIAlign, with the average or the maximum of a bin's samples


class _Bins(NamedTuple):
    """Bins of regions, in coordinates where the middle of the first pixel is 0.

    Attributes:
        image: (K,) indices of the images.
        start: (K, 2, PH, PW), y and x of each bin's corner.
        size: (K, 2) height and width of a region's bins.
        samples: (K, 2) samples per bin.
    """

    image: Tensor
    start: Tensor
    size: Tensor
    samples: Tensor

    @classmethod
    def of(
        cls,
        rois: Tensor,
        shape: tuple[int, int],
        *,
        scale: float,
        sampling_ratio: int,
        aligned: bool,
        shift: Tensor | None = None,
    ) -> _Bins:
        """The bins of regions (K, 5), image index and corners; ``shift`` (K, 2, PH, PW) moves each, as shares
        of its region's height and width."""
        corners = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
        first, last = corners[:, [1, 0]], corners[:, [3, 2]]
        extent = last - first if aligned else (last - first).clamp(min=1)
        size = extent / extent.new_tensor(shape)
        rows, columns = (torch.arange(count, device=rois.device) for count in shape)
        index = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        start = first[..., None, None] + size[..., None, None] * index
        if shift is not None:
            start = start + extent[..., None, None] * shift
        given = torch.full_like(size, sampling_ratio)
        # without a number given, sides that are not finite have no samples, as compiled on CPUs
        samples = given if sampling_ratio > 0 else size.ceil().nan_to_num(0.0, 0.0, 0.0)
        samples = samples.clamp(min=0).long()
        return cls(rois[:, 0].long(), start, size, samples)

    def groups(self, images: int) -> Iterator[tuple[Tensor, int, int, int]]:
        """Regions of one image with equal numbers of samples: indices, image, samples in y and in x."""
        keys = torch.cat([self.image[:, None], self.samples], dim=1)
        kinds, kind_of = keys.unique(dim=0, return_inverse=True)
        for number, (image, rows, columns) in enumerate(kinds.tolist()):
            if image not in range(images):
                raise ValueError(f"a region is of image {image}, got a batch of {images}")
            yield (kind_of == number).nonzero()[:, 0], image, rows, columns

    def points(self, regions: Tensor, rows: int, columns: int) -> Tensor:
        """Samples of some regions: (k, 2, PH, PW, rows · columns)."""
        steps = [torch.arange(count, device=self.size.device) + 0.5 for count in (rows, columns)]
        step = torch.stack(torch.meshgrid(*steps, indexing="ij")).flatten(1)
        count = self.size.new_tensor([rows, columns])
        # in the compiled order, which decides on which side of the border a sample lies
        place = step * self.size[regions][..., None] / count[:, None]
        return self.start[regions][..., None] + place[:, :, None, None]


def _bilinear(maps: Tensor, points: Tensor) -> Tensor:
    """Samples of maps (N, C, H, W) at points (N, 2, P), y and x: (N, C, P).

    Up to a pixel outside, the border is repeated; farther away it is 0. It has gradients in the maps and, off
    the border and the pixels' middles, in the points.
    """
    height, width = maps.shape[2:]
    extent = points.new_tensor([height, width])[:, None]
    inside = ((points >= -1) & (points <= extent)).all(dim=1, keepdim=True)
    grid = ((2 * points + 1) / extent - 1).flip(1).transpose(1, 2)
    values = F.grid_sample(maps, grid[:, :, None], padding_mode="border", align_corners=False)
    return values[..., 0] * inside


def _samples(image: Tensor, points: Tensor) -> Tensor:
    """Samples of one image's maps (1, C, H, W) at points (k, 2, PH, PW, S): (k, C, PH, PW, S)."""
    values = _bilinear(image, points.transpose(0, 1).flatten(1)[None])[0]
    return values.unflatten(1, (len(points), *points.shape[2:])).transpose(0, 1)


def _roi_align(input: Tensor, rois: Tensor, options: dict[str, Any]) -> Tensor:
    return torchvision.ops.roi_align(
        input,
        rois,
        (options["aligned_height"], options["aligned_width"]),
        options["spatial_scale"],
        options["sampling_ratio"],
        options["aligned"],
    )


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: Any
) -> None:
    """``argmax_y`` and ``argmax_x`` (K, C, PH, PW) get the places of the maxima; −1 in an empty bin."""
    input, rois = _wide(input), _wide(rois)
    if options["pool_mode"]:
        output.copy_(_roi_align(input, rois, options))
        return
    bins = _Bins.of(
        rois,
        (options["aligned_height"], options["aligned_width"]),
        scale=options["spatial_scale"],
        sampling_ratio=options["sampling_ratio"],
        aligned=options["aligned"],
    )
    for regions, image, rows, columns in bins.groups(len(input)):
        if not rows * columns:
            output[regions], argmax_y[regions], argmax_x[regions] = _NO_MAXIMUM, -1, -1
            continue
        points = bins.points(regions, rows, columns)
        values, best = _samples(input[image : image + 1], points).max(dim=-1)  # (k, C, PH, PW)
        output[regions] = values.to(output.dtype)
        shape = (len(regions), 2, input.shape[1], *points.shape[2:4], 1)
        at = points[:, :, None].expand(*shape[:-1], -1).gather(5, best[:, None, ..., None].expand(shape))
        argmax_y[regions], argmax_x[regions] = at[..., 0].to(argmax_y.dtype).unbind(1)


_NO_MAXIMUM = -10000.0  # of an empty bin, as compiled


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **options: Any,
) -> None:
    # Averages and the samples of maxima are linear in the input, so the gradient is the same at any input.
    if options["pool_mode"]:
        (grad,) = _gradients(lambda x: _roi_align(x, _wide(rois), options), [grad_input], grad_output)
        grad_input.copy_(grad)
        return
    for image in rois[:, 0].long().unique().tolist():
        of_image = rois[:, 0].long() == image
        points = torch.stack([argmax_y[of_image], argmax_x[of_image]])  # (2, k, C, PH, PW)
        points = _wide(points).permute(2, 0, 1, 3, 4).flatten(2)
        grads = grad_output[of_image].transpose(0, 1).flatten(1)[:, None]  # of every channel apart
        grads = grads * (points[:, :1] != -1)
        (grad,) = _gradients(
            lambda x, points=points: _bilinear(x, points), [grad_input[image][:, None]], grads
        )
        grad_input[image] = grad[:, 0].to(grad_input.dtype)


# --- deformable RoI pooling: RoIAlign, each bin of which is moved by offsets (K, 2, PH, PW), x before y


def _deform_roi_pool(input: Tensor, rois: Tensor, offset: Tensor, options: dict[str, Any]) -> Tensor:
    shape = options["pooled_height"], options["pooled_width"]
    bins = _Bins.of(
        rois,
        shape,
        scale=options["spatial_scale"],
        sampling_ratio=options["sampling_ratio"],
        aligned=True,
        shift=options["gamma"] * offset.flip(1) if offset.numel() else None,
    )
    output = input.new_zeros(len(rois), input.shape[1], *shape)
    for regions, image, rows, columns in bins.groups(len(input)):
        if rows * columns:
            points = bins.points(regions, rows, columns)
            output = output.index_copy(0, regions, _samples(input[image : image + 1], points).mean(dim=-1))
    return output


def deform_roi_pool_forward(
    input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, **options: Any
) -> None:
    output.copy_(_deform_roi_pool(_wide(input), _wide(rois), _wide(offset), options))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    **options: Any,
) -> None:
    if not offset.numel():
        (grad,) = _gradients(
            lambda x: _deform_roi_pool(x, _wide(rois), offset, options), [input], grad_output
        )
        grad_input.copy_(grad)
        return
    grads = _gradients(
        lambda x, off: _deform_roi_pool(x, _wide(rois), off, options), [input, offset], grad_output
    )
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


# --- deformable convolution, v1 (no mask, no bias) and v2 (modulated)


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int

    @classmethod
    def of_v1(cls, o: dict[str, Any]) -> _Geometry:
        return cls(
            (o["dH"], o["dW"]),
            (o["padH"], o["padW"]),
            (o["dilationH"], o["dilationW"]),
            o["group"],
            o["deformable_group"],
        )

    @classmethod
    def of_v2(cls, o: dict[str, Any]) -> _Geometry:
        return cls(
            (o["stride_h"], o["stride_w"]),
            (o["pad_h"], o["pad_w"]),
            (o["dilation_h"], o["dilation_w"]),
            o["group"],
            o["deformable_group"],
        )

    def convolve(
        self,
        input: Tensor,
        offset: Tensor,
        weight: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        # torchvision infers both numbers of groups from the shapes, so a wrong one would pass unnoticed.
        channels = weight.shape[1] * self.groups
        taps = weight.shape[2] * weight.shape[3] * self.deform_groups
        if input.shape[1] != channels or offset.shape[1] != 2 * taps:
            raise ValueError(
                f"deformable convolution with weight {tuple(weight.shape)}, groups={self.groups} and "
                f"deform_groups={self.deform_groups} takes {channels} input and {2 * taps} offset channels, "
                f"got {input.shape[1]} and {offset.shape[1]}"
            )
        expected = {"offset": (offset, len(input), 2 * taps)}
        if mask is not None:
            expected["mask"] = (mask, len(input), taps)
        if bias is not None:
            expected["bias"] = (bias, len(weight))
        for name, (tensor, *shape) in expected.items():
            if list(tensor.shape[:2]) != shape:
                raise ValueError(
                    f"deformable convolution of {len(input)} maps with weight {tuple(weight.shape)} and "
                    f"deform_groups={self.deform_groups}: expected {name} to begin with shape {shape}, got "
                    f"{list(tensor.shape)}"
                )
        size = self._output_size(input, weight)
        offset = self._with_gradient(_first_of(offset, size), input, weight)
        mask = None if mask is None else _first_of(mask, size)
        return torchvision.ops.deform_conv2d(
            input, offset, weight, bias, self.stride, self.padding, self.dilation, mask
        )

    def _output_size(self, input: Tensor, weight: Tensor) -> tuple[int, int]:
        height, width = (
            (input.shape[2 + i] + 2 * self.padding[i] - self.dilation[i] * (weight.shape[2 + i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return height, width

    def _with_gradient(self, offset: Tensor, input: Tensor, weight: Tensor) -> Tensor:
        """The offsets, detached where a sample lies on or beyond the border of zeros around the input.

        There torchvision's gradient looks into the first pixel, compiled mmcv's is 0.
        """
        if not offset.requires_grad:
            return offset
        taps = [
            self.dilation[i] * torch.arange(weight.shape[2 + i], device=offset.device) - self.padding[i]
            for i in (0, 1)
        ]
        places = [self.stride[i] * torch.arange(offset.shape[2 + i], device=offset.device) for i in (0, 1)]
        offsets = offset.detach().unflatten(1, (self.deform_groups, len(taps[0]), len(taps[1]), 2))
        y = offsets[:, :, :, :, 0] + taps[0][:, None, None, None] + places[0][:, None]
        x = offsets[:, :, :, :, 1] + taps[1][:, None, None] + places[1]
        inside = (y > -1) & (x > -1) & (y < input.shape[2]) & (x < input.shape[3])
        inside = inside[:, :, :, :, None].expand_as(offsets).reshape(offset.shape)
        return torch.where(inside, offset, offset.detach())


def _first_of(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, C, h, w) of a larger size as compiled mmcv reads them: each sample's first C · H · W numbers.

    DyHead hands over offsets of another level of its pyramid.
    """
    given, wanted = maps.shape[2] * maps.shape[3], size[0] * size[1]
    if given < wanted:
        raise ValueError(
            f"deformable convolution has an output of {size[0]}×{size[1]}, got offsets or a mask of "
            f"{maps.shape[2]}×{maps.shape[3]}"
        )
    if tuple(maps.shape[2:]) == size:
        return maps
    return maps.flatten(1)[:, : maps.shape[1] * wanted].unflatten(1, (maps.shape[1], *size))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **options: Any,
) -> None:
    output.copy_(_Geometry.of_v1(options).convolve(_wide(input), _wide(offset), _wide(weight)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: Any,
) -> None:
    geometry, weight = _Geometry.of_v1(options), _wide(weight)
    grads = _gradients(lambda x, off: geometry.convolve(x, off, weight), [input, offset], grad_output)
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **options: Any,
) -> None:
    geometry, input, offset = _Geometry.of_v1(options), _wide(input), _wide(offset)
    # The output is linear in the weight: grad_weight stands in for a weight that is not handed over.
    (grad,) = _gradients(lambda w: geometry.convolve(input, offset, w), [grad_weight], grad_output)
    grad_weight.add_(grad, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **options: Any,
) -> None:
    tensors = [input, offset, weight, mask, *([bias] if with_bias else [])]
    output.copy_(_Geometry.of_v2(options).convolve(*map(_wide, tensors)))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **options: Any,
) -> None:
    tensors = [input, offset, weight, mask, *([bias] if with_bias else [])]
    buffers = [grad_input, grad_offset, grad_weight, grad_mask, *([grad_bias] if with_bias else [])]
    grads = _gradients(_Geometry.of_v2(options).convolve, tensors, grad_output)
    for buffer, grad in zip(buffers, grads, strict=True):
        buffer.copy_(grad)


# --- sigmoid focal loss (Lin et al., 2017): logits (N, C), class indices (N,) where C means background


def _focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sign of each logit's right answer, the logit in that direction, and its factor; all (N, C)."""
    logits = _wide(input)
    positive = (target[:, None] == torch.arange(input.shape[1], device=input.device)).to(logits.dtype)
    sign = 2 * positive - 1
    factor = alpha * positive + (1 - alpha) * (1 - positive)
    if weight.numel():
        factor = factor * weight[target][:, None]
    return sign, sign * logits, factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    # logsigmoid is exact where the compiled op's log(1 - p) has run out of digits, from logits of 15 up
    _, logit, factor = _focal_terms(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-logit) ** gamma * F.logsigmoid(logit))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    sign, logit, factor = _focal_terms(input, target, weight, alpha)
    wrong = torch.sigmoid(-logit)
    slope = gamma * torch.sigmoid(logit) * F.logsigmoid(logit) - wrong
    grad_input.copy_(sign * factor * wrong**gamma * slope)


# --- softmax focal loss: probabilities (N, C), class indices (N,), of which negative ones have no loss


def _softmax_focal_terms(
    probabilities: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability of each target, its logarithm, and its factor; all (N,)."""
    probabilities, label = _wide(probabilities), target.clamp(min=0)
    probability = probabilities.gather(1, label[:, None])[:, 0]
    factor = alpha * (target >= 0).to(probability.dtype)
    if weight.numel():
        factor = factor * weight[label]
    return probability, probability.clamp(min=torch.finfo(torch.float32).tiny).log(), factor


def softmax_focal_loss_forward(
    probabilities: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    probability, logarithm, factor = _softmax_focal_terms(probabilities, target, weight, alpha)
    output.copy_(-factor * (1 - probability) ** gamma * logarithm)


def softmax_focal_loss_backward(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor,
    buffer: Tensor,
    grad_input: Tensor,
    *,
    gamma: float,
    alpha: float,
) -> None:
    probability, logarithm, factor = _softmax_focal_terms(probabilities, target, weight, alpha)
    wrong = 1 - probability
    steep = wrong.clamp(min=torch.finfo(torch.float32).tiny) ** (gamma - 1)  # finite where wrong is 0, too
    buffer.copy_(factor * (gamma * steep * probability * logarithm - wrong**gamma))
    hit = target[:, None] == torch.arange(probabilities.shape[1], device=target.device)
    grad_input.copy_(buffer[:, None] * (hit.to(probabilities.dtype) - probabilities))


# --- CARAFE (Wang et al., 2019): maps (N, C, h, w) enlarged s times, each new pixel by a k × k kernel of its
# own among masks (N, groups · k · k, s · h, s · w)


def _carafe(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    n, channels, height, width = features.shape
    padded = F.pad(features, [kernel // 2] * 4).unflatten(1, (groups, channels // groups))
    kernels = masks.view(n, groups, 1, kernel * kernel, height, scale, width, scale)
    output = features.new_zeros(n, groups, channels // groups, height, scale, width, scale)
    for tap in range(kernel * kernel):
        row, column = divmod(tap, kernel)
        neighbours = padded[..., row : row + height, column : column + width]
        output = output + neighbours[..., :, None, :, None] * kernels[:, :, :, tap]
    return output.reshape(n, channels, height * scale, width * scale)


def carafe_naive_forward(
    features: Tensor,
    masks: Tensor,
    output: Tensor,
    *,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    output.copy_(_carafe(_wide(features), _wide(masks), kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    *,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    grads = _gradients(
        lambda x, kernels: _carafe(x, kernels, kernel_size, group_size, scale_factor),
        [features, masks],
        grad_output,
    )
    grad_input.copy_(grads[0])
    grad_masks.copy_(grads[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    features_for_backward: Tensor,
    output_buffer: Tensor,
    masks_buffer: Tensor,
    output: Tensor,
    **options: int,
) -> None:
    features_for_backward.copy_(features)
    carafe_naive_forward(features, masks, output, **options)


def carafe_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_output_buffer: Tensor,
    grad_input_copies: Tensor,
    grad_input_buffer: Tensor,
    grad_masks_buffer: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **options: int,
) -> None:
    """``features`` are those that ``carafe_forward`` kept."""
    carafe_naive_backward(grad_output, features, masks, grad_input, grad_masks, **options)


# --- masked convolution: of one image, at some places; mmcv multiplies by the weight in between


def masked_im2col_forward(
    image: Tensor,
    rows: Tensor,
    columns: Tensor,
    patches: Tensor,
    *,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Fills patches (C · kernel_h · kernel_w, P) with those around the places of the output."""
    padded = F.pad(image[0], (pad_w, pad_w, pad_h, pad_h))
    y = rows[:, None, None] + torch.arange(kernel_h, device=rows.device)[:, None]
    x = columns[:, None, None] + torch.arange(kernel_w, device=rows.device)
    patches.copy_(padded[:, y, x].permute(0, 2, 3, 1).flatten(0, 2))


def masked_col2im_forward(
    values: Tensor,
    rows: Tensor,
    columns: Tensor,
    output: Tensor,
    *,
    height: int,
    width: int,
    channels: int,
) -> None:
    output[0, :, rows, columns] = values.to(output.dtype)  # autocast multiplies in half precision


# --- point-wise spatial attention (Zhao et al., 2018): masks around each place, on the places of the map


def _psamask(input: Tensor, options: dict[str, int]) -> Tensor:
    """(N, h_mask · w_mask, h, w) -> (N, h · w, h, w).

    Channels are the places looked at with type 0 ("collect"), those that look with 1 ("distribute").
    """
    height, width = options["h_feature"], options["w_feature"]
    rows, columns = (torch.arange(count, device=input.device) for count in (height, width))
    row = rows[:, None] - rows + options["half_h_mask"]  # (looked at, looking)
    column = columns[:, None] - columns + options["half_w_mask"]
    row_fits = (row >= 0) & (row < options["h_mask"])
    column_fits = (column >= 0) & (column < options["w_mask"])
    index = row.clamp(0, options["h_mask"] - 1)[:, None, :, None] * options["w_mask"]
    index = index + column.clamp(0, options["w_mask"] - 1)[None, :, None, :]
    fits = row_fits[:, None, :, None] & column_fits[None, :, None, :]
    index, fits = (each.reshape(1, height * width, height, width) for each in (index, fits))
    masks = input.gather(1, index.expand(len(input), -1, -1, -1)) * fits
    return masks if options["psa_type"] == 0 else masks.flatten(2).transpose(1, 2).reshape(masks.shape)


def psamask_forward(input: Tensor, output: Tensor, **options: int) -> None:
    output.copy_(_psamask(input, options))


def psamask_backward(grad_output: Tensor, grad_input: Tensor, **options: int) -> None:
    # The masks are linear in the input, so the gradient is the same at any input.
    (grad,) = _gradients(lambda x: _psamask(x, options), [grad_input], grad_output)
    grad_input.copy_(grad)


# --- multi-scale deformable attention, by mmcv's own function in plain PyTorch (mmcv calls us on CUDA only)


def _attend(value: Tensor, locations: Tensor, weights: Tensor, shapes: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes.tolist(), locations, weights)


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    im2col_step: int,
) -> Tensor:
    tensors = map(_wide, (value, sampling_locations, attention_weights))
    return _attend(*tensors, spatial_shapes).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    *,
    im2col_step: int,
) -> None:
    grads = _gradients(
        lambda *tensors: _attend(*tensors, spatial_shapes),
        [value, sampling_locations, attention_weights],
        grad_output,
    )
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        buffer.copy_(grad)


# --- what mmcv.utils.collect_env asks; mmcv-lite's own answer


def get_compiler_version() -> str:
    return "n/a"


def get_compiling_cuda_version() -> str:
    return "n/a"
