"""Finding what is wrong with a classification data set before training does."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hardnet_suite.data.classification.samples import Samples, missing_files
from hardnet_suite.data.report import Finding, Report


@dataclass(frozen=True, kw_only=True)
class ClassificationReport(Report):
    """What a classification set holds and what was found wrong with it.

    ``per_class``: class name -> images. ``sizes`` is (smallest width, smallest height, largest width,
    largest height) in pixels, None where no image was read.
    """

    where: str
    images: int
    per_class: dict[str, int]
    sizes: tuple[int, int, int, int] | None

    def summary(self) -> dict[str, str]:
        used = {name: count for name, count in self.per_class.items() if count}
        fewest, most = min(used, key=used.get), max(used, key=used.get)
        rows = {
            "images of": self.where,
            "images": str(self.images),
            "classes with images": f"{len(used)} of {len(self.per_class)}",
            "a class has": f"{used[fewest]} ({fewest}) to {used[most]} ({most})",
        }
        if self.sizes:
            rows["image sizes"] = "{}×{} to {}×{}".format(*self.sizes)
        return rows


def check_classification(samples: Samples, *, read: bool = True) -> ClassificationReport:
    """Look through a classification set for what would stop or spoil a training.

    ``read``: decode every image; False only looks whether it is there.
    """
    findings, sizes = [], []

    missing = {*missing_files(samples)}

    def look(index: int) -> tuple[int, int] | Finding | None:
        image = samples.images[index]
        if image in missing:
            return Finding("error", "missing image", samples.name(index), "no such file")
        try:
            return samples.open(index).size if read else None
        except Exception as error:
            return Finding("error", "unreadable image", samples.name(index), str(error))

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(look, range(len(samples))):
            if isinstance(found, Finding):
                findings.append(found)
            elif found:
                sizes.append(found)
    findings += [
        Finding("warning", "unused file", str(path), "it is not an image in a class folder, and is not used")
        for path in samples.strays
    ]
    names = Counter(os.path.normpath(image) for image in samples.images if isinstance(image, Path))
    twice = [name for name, count in names.items() if count > 1]
    findings += [Finding("warning", "image listed twice", str(name), "counts twice") for name in twice]
    counts = Counter(samples.labels)
    per_class = {name: counts[label] for label, name in enumerate(samples.classes)}
    empty = [name for name, count in per_class.items() if not count]
    findings += [Finding("warning", "class without images", name, "has not a single image") for name in empty]
    return ClassificationReport(
        where=samples.where,
        images=len(samples),
        per_class=per_class,
        sizes=(*map(min, zip(*sizes, strict=True)), *map(max, zip(*sizes, strict=True))) if sizes else None,
        findings=tuple(findings),
    )
