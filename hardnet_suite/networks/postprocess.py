"""How a network's output becomes an answer: one frozen record per model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from hardnet_suite.networks.arch import (
    ARCHS,
    Arch,
    CenterNetArch,
    DescriptorArch,
    SegmentationArch,
    SSDArch,
)


@dataclass(frozen=True)
class Postprocess:
    """The output rule of a network; one subclass per task, whose name is ``task``."""

    task: ClassVar[str] = ""

    def differences(self, other: Postprocess) -> list[str]:
        """Names of the values in which another rule differs; "task" where it is another task's."""
        if type(self) is not type(other):
            return ["task"]
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, with the task's name, as stored beside weights."""
        values = {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }
        return {"task": self.task} | values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Postprocess:
        """The inverse of ``to_dict``: the record of the task that ``values`` names.

        Raises:
            ValueError: anything else.
        """
        kind = _KINDS.get(values.get("task", "")) if isinstance(values, Mapping) else None
        if kind is None or set(values) - {"task"} != {field.name for field in fields(kind)}:
            raise ValueError(f"not an output rule: {values}")
        options: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in values.items()
            if key != "task"
        }
        try:
            return kind(**options)
        except TypeError as error:
            raise ValueError(f"not an output rule: {values} ({error})") from None


@dataclass(frozen=True)
class ClassificationPostprocess(Postprocess):
    """Softmax, best class first."""

    task: ClassVar[str] = "classification"


@dataclass(frozen=True)
class DetectionPostprocess(Postprocess):
    """From raw predictions to boxes in the image.

    Attributes:
        score_threshold: boxes must score higher; in [0, 1].
        max_boxes: how many boxes are kept per image, best first.
        iou_threshold: per-class non-maximum suppression drops a box whose IoU with a better one is larger;
            None: no suppression (CenterNet).
        iou_offset: 1 counts both ends of a box in the IoU (sides one pixel longer), as the published SSD.
        class_agnostic: suppression across classes.
        max_before_nms: how many (box, class) pairs per level go into the suppression; None: all.
        clip: boxes end at the border of the image.
        flip: averages the maps of the image and of its mirror image (CenterNet).
    """

    task: ClassVar[str] = "detection"

    score_threshold: float = 0.0
    max_boxes: int = 100
    iou_threshold: float | None = None
    iou_offset: int = 0
    class_agnostic: bool = False
    max_before_nms: int | None = None
    clip: bool = True
    flip: bool = False

    def __post_init__(self) -> None:
        thresholds = [self.score_threshold] + ([] if self.iou_threshold is None else [self.iou_threshold])
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in thresholds):
            raise ValueError(f"thresholds must be numbers from 0 to 1, got {thresholds}")
        counts = [self.max_boxes] + ([] if self.max_before_nms is None else [self.max_before_nms])
        if not all(type(count) is int and count >= 1 for count in counts):
            raise ValueError(f"numbers of boxes must be integers of at least 1, got {counts}")
        if self.iou_offset not in (0, 1):
            raise ValueError(f"iou_offset={self.iou_offset!r} must be 0 or 1")


@dataclass(frozen=True)
class SegmentationPostprocess(Postprocess):
    """From logits to one class per pixel of the image.

    Attributes:
        window: (height, width) of the sliding window; None: the whole image at once.
        stride: (vertical, horizontal) steps of the window in pixels.
        threshold: with a single class, the probability (sigmoid) that a pixel of it must exceed.
    """

    task: ClassVar[str] = "segmentation"

    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        sides = [*(self.window or ()), *(self.stride or ())]
        if not all(type(side) is int and side >= 1 for side in sides):
            raise ValueError(f"window and stride must be integers of at least 1, got {sides}")
        for pair in (self.window, self.stride):
            if pair is not None and len(pair) != 2:
                raise ValueError(f"window and stride must be (height, width), got {pair}")
        if not (isinstance(self.threshold, int | float) and 0 <= self.threshold <= 1):
            raise ValueError(f"threshold={self.threshold!r} must be a number from 0 to 1")


_KINDS = {
    kind.task: kind for kind in (ClassificationPostprocess, DetectionPostprocess, SegmentationPostprocess)
}


def default_postprocess(arch: Arch) -> Postprocess | None:
    """The published output rule of a row of the architecture table; None for the patch descriptor."""
    if isinstance(arch, SSDArch):
        return DetectionPostprocess(score_threshold=0.01, max_boxes=200, iou_threshold=0.45, iou_offset=1)
    if isinstance(arch, CenterNetArch):
        return DetectionPostprocess(max_boxes=100)  # clipped, as in the suite's configs
    if isinstance(arch, SegmentationArch):
        return SegmentationPostprocess()
    return None if isinstance(arch, DescriptorArch) else ClassificationPostprocess()


POSTPROCESS: dict[str, Postprocess | None] = {name: default_postprocess(arch) for name, arch in ARCHS.items()}
