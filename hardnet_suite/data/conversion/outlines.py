"""What formats with polygons write of an object: its outline, or its box."""

from __future__ import annotations

from hardnet_suite.data.boxes import OUTLINES, Box, BoxData, outline_bounds
from hardnet_suite.data.report import Finding

_NEAR = 0.0101  # pixels by which a box and its outline differ where both have two decimals


def findings_with_outlines(data: BoxData) -> list[Finding]:
    """What was found in a data set, for a target that keeps outlines in place of boxes."""
    findings = [finding for finding in data.findings if finding.kind != OUTLINES]
    distances = [_distance(box, image.size) for image in data.images for box in image.boxes if box.outline]
    if other := sum(distance > _NEAR for distance in distances):
        most = f"{max(distances):.2f} pixels"
        problem = f"{other} that differ from their outline, by up to {most}; the outline is written"
        findings.append(Finding("warning", "boxes", "the data set", problem))
    return findings


def _distance(box: Box, size: tuple[int, int]) -> float:
    """By how many pixels an end of a box is not that of its outline within the image."""
    x, y, width, height = box.bbox
    inside = (min(max(end, 0), size[axis % 2]) for axis, end in enumerate(outline_bounds(box.outline)))
    return max(abs(one - other) for one, other in zip(inside, (x, y, x + width, y + height), strict=True))
