"""A stand-in for ``mmcv._ext``, the compiled part of mmcv that mmcv-lite leaves out.

``mmcv.ops`` and with it ``mmdet.models`` cannot be imported without that module: every op file asserts that
its functions exist. This file *is* that module where no compiled one is installed: the finder in
``_hardnet_suite_mmcv`` loads it under that name, possibly before ``hardnet_suite.openmm`` is imported, so it
imports nothing from there and stays one file. It is built on ``torchvision.ops``. The functions keep the
calling convention of the C++ ones (mmcv 2.1.0, ``mmcv/ops/csrc/pytorch/pybind.cpp``): most fill a buffer
among their arguments and return nothing. Only ``mmcv.ops`` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor

from hardnet_suite.inference import nms as suppression
from hardnet_suite.inference.nms import at_least_float32 as _wide


def _not_available(operator: str) -> NotImplementedError:
    return NotImplementedError(
        f"{operator} needs the compiled part of mmcv, which mmcv-lite lacks and hardnet_suite does not "
        "replace: choose a model without it, or install a compiled mmcv (>=2.1,<2.2) instead of mmcv-lite"
    )


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """An op that is not provided; mmcv only asks whether an op exists, so the refusal waits for a call."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise _not_available(f"the operator {name!r} of mmcv.ops")

    return refuse


def _gradients(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], grad_output: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of ``function(*tensors)``, run again since mmcv's autograd Functions keep no graph."""
    leaves = [_wide(tensor.detach()).requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        output = function(*leaves)
    return torch.autograd.grad(output, leaves, grad_output.to(output.dtype))


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


# --- RoIAlign


def _roi_align(input: Tensor, rois: Tensor, options: dict[str, Any]) -> Tensor:
    if options["pool_mode"] != 1:
        raise _not_available("roi_align with pool_mode='max'")
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
    output.copy_(_roi_align(_wide(input), _wide(rois), options))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    **options: Any,
) -> None:
    # An average is linear in its input, so the gradient is the same at any input.
    (grad,) = _gradients(lambda x: _roi_align(x, _wide(rois), options), [grad_input], grad_output)
    grad_input.copy_(grad)


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
        return torchvision.ops.deform_conv2d(
            input, offset, weight, bias, self.stride, self.padding, self.dilation, mask
        )


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
