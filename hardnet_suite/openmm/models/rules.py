"""OpenMMLab's ``test_cfg`` as the suite's output rule: translated exactly, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    Arch,
    CenterNetArch,
    ClassificationPostprocess,
    DetectionPostprocess,
    Postprocess,
    SegmentationArch,
    SegmentationPostprocess,
    SSDArch,
    default_postprocess,
)
from hardnet_suite.networks.hardnet import least_side


def postprocess_of(
    arch: Arch, test_cfg: Mapping[str, Any] | None, where: str, *, threshold: float | None = None
) -> Postprocess:
    """The output rule that a ``test_cfg`` makes.

    Args:
        arch: the model's row of the architecture table.
        test_cfg: the options of mmdet or mmseg.
        where: what errors call it.
        threshold: the decode head's, for a single class.

    Raises:
        UserError: an option that the record cannot express.
    """
    given, usual = test_cfg or {}, default_postprocess(arch)
    if isinstance(arch, SSDArch):
        require_known(given, {"nms_pre", "score_thr", "nms", "max_per_img", "min_bbox_size"}, where)
        if given.get("min_bbox_size", -1) >= 0:
            raise UserError(f"{where}.min_bbox_size={given['min_bbox_size']} is not supported; remove it")
        nms = given.get("nms", {})
        before = given.get("nms_pre")
        before = -1 if before is None else before
        if isinstance(before, bool) or not isinstance(before, int):
            raise UserError(f"{where}.nms_pre is {before!r}, expected an integer, -1 for no limit")
        return DetectionPostprocess(
            score_threshold=_number(given, "score_thr", usual.score_threshold, where),
            max_boxes=_count(given, "max_per_img", usual.max_boxes, where),
            max_before_nms=before if before > 0 else None,
            **_suppression(nms, usual, f"{where}.nms"),
        )
    if isinstance(arch, CenterNetArch):
        require_known(given, {"max_per_img", "flip_test", "clip_border", "keep_heatmap", "score_thr"}, where)
        return DetectionPostprocess(
            score_threshold=_number(given, "score_thr", usual.score_threshold, where),
            max_boxes=_count(given, "max_per_img", usual.max_boxes, where),
            clip=bool(given.get("clip_border", False)),  # as published
            flip=bool(given.get("flip_test", usual.flip)),
        )
    if isinstance(arch, SegmentationArch):
        require_known(given, {"mode", "crop_size", "stride"}, where)
        options = {}
        if threshold is not None:
            head = {"decode_head.threshold": threshold}
            options["threshold"] = _number(
                head, "decode_head.threshold", 0.5, where.removesuffix(".test_cfg")
            )
        mode = given.get("mode", "whole")
        if mode == "whole":
            if given.get("crop_size") or given.get("stride"):
                raise UserError(
                    f"{where}: crop_size and stride have no effect with mode='whole'; expected 'slide'"
                )
            return SegmentationPostprocess(**options)
        if mode != "slide" or not given.get("crop_size") or not given.get("stride"):
            raise UserError(f"{where}: expected mode='whole', or 'slide' with crop_size and stride")
        window, stride = (integers(given[key], f"{where}.{key}") for key in ("crop_size", "stride"))
        if stride[0] > window[0] or stride[1] > window[1]:
            raise UserError(f"{where}: stride {stride} must not be larger than crop_size {window}")
        if min(window) < (least := least_side(arch.trunk)):
            raise UserError(
                f"{where}: crop_size {window} is too small, the network takes inputs of at least "
                f"{least}×{least} pixels"
            )
        return SegmentationPostprocess(window=window, stride=stride, **options)
    require_known(given, set(), where)
    return ClassificationPostprocess()


def _suppression(nms: Mapping[str, Any] | None, usual: DetectionPostprocess, where: str) -> dict[str, Any]:
    """The arguments of ``DetectionPostprocess`` that mmcv's ``nms`` options make; None is no suppression."""
    if nms is None:
        return {"iou_threshold": None}
    require_known(nms, {"type", "iou_threshold", "offset", "class_agnostic"}, where)
    if nms.get("type", "nms") != "nms":
        raise UserError(f"{where}.type={nms['type']!r} is not supported; expected 'nms'")
    offset = nms.get("offset", 0 if nms else usual.iou_offset)  # mmcv's own is 0
    if offset not in (0, 1):
        raise UserError(f"{where}.offset is {offset!r}, expected 0 or 1")
    return {
        "iou_threshold": _number(nms, "iou_threshold", usual.iou_threshold, where),
        "iou_offset": int(offset),
        "class_agnostic": bool(nms.get("class_agnostic", False)),
    }


def integers(value: Any, where: str) -> tuple[int, int]:
    """Two integers of at least 1, from one for both or one each; UserError for anything else."""
    try:
        numbers = pair(value)
    except TypeError:
        numbers = ()
    if len(numbers) != 2 or not all(type(number) is int and number >= 1 for number in numbers):
        raise UserError(f"{where} is {value!r}, expected integers of at least 1")
    return numbers


def pair(value: Any) -> tuple:
    """A number for both sides, or one per side, as a tuple of two."""
    return (value, value) if isinstance(value, int | float) else tuple(value)


def _number(options: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{where}.{key} is {value!r}, expected a number from 0 to 1")
    return float(value)


def _count(options: Mapping[str, Any], key: str, default: int, where: str) -> int:
    value = options.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{where}.{key} is {value!r}, expected an integer of at least 1")
    return value
