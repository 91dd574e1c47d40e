"""Images with label masks, whatever format they were read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardnet_suite.data.report import Finding, counted, escaped

IGNORED = 255  # the label of pixels that do not count
IGNORED_CLASS = "__ignore__"  # what files that name classes call them


@dataclass(frozen=True)
class MaskImage:
    """An image, its ``name`` as in ``BoxImage``, and its (H, W) uint8 labels: class indices, or 255."""

    path: Path
    name: str
    labels: np.ndarray


@dataclass(frozen=True)
class MaskData:
    """What a reader made of a data set; the attributes are those of ``BoxData``, and ``palette``.

    Attributes:
        palette: one RGB color per class; None: the usual ones.
    """

    source: Path
    format: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None
    splits: Mapping[str, Sequence[MaskImage]]
    findings: tuple[Finding, ...]
    folders: frozenset[Path]


@dataclass(frozen=True)
class MaskReport:
    """What a conversion to masks wrote: images per split, and the share of pixels per class."""

    classes: tuple[str, ...]
    images: dict[str, int]
    shares: dict[str, float]
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, data: MaskData) -> MaskReport:
        pixels: Counter[int] = Counter()
        for images in data.splits.values():
            for image in images:
                values, counts = np.unique(image.labels, return_counts=True)
                pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        total = sum(pixels.values())
        shares = {name: pixels[index] / total for index, name in enumerate(data.classes)}
        return cls(data.classes, {split: len(i) for split, i in data.splits.items()}, shares, data.findings)

    def table(self) -> str:
        """Plain text: one row per split, the shares of the classes, then every finding."""
        lines = [f"{split}: {counted(count, 'image')}" for split, count in self.images.items()]
        lines += [f"{share:7.2%}  {name}" for name, share in self.shares.items()]
        for finding in self.findings:
            lines.append(f"{finding.kind}: {finding.where}: {finding.what}".replace("\n", "\\n"))
        return escaped("\n".join(lines))
