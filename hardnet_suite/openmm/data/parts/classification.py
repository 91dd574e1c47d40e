"""Classification data sets of a config."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from hardnet_suite.data.classes import class_names, imagenet_classes, readable
from hardnet_suite.data.classification import (
    ClassificationReport,
    Samples,
    check_classification,
    choose,
    hold_out,
    read_csv,
    read_folder,
    read_shards,
    read_torchvision,
    require_files,
)
from hardnet_suite.data.files import read_text
from hardnet_suite.data.options import checked_indices, take
from hardnet_suite.data.report import Finding, counted
from hardnet_suite.errors import UserError
from hardnet_suite.inference import logits_to_guesses
from hardnet_suite.inference.labels import ONE_CLASS
from hardnet_suite.openmm.data.parts.part import (
    MOST_WORST,
    WORST,
    Part,
    ScoreSummary,
    kind_of,
    write_mistakes,
)
from hardnet_suite.visualization.classification import (
    CONFUSION,
    GuessResult,
    draw_confusion,
    draw_guess_results,
    draw_guesses,
    draw_worst_guesses,
)

_OPTIONS = (
    *("data_root", "folder", "csv", "torchvision", "shards", "classes"),
    *("hold_out", "hold_out_seed", "held_out", "indices"),
)


@dataclass(frozen=True)
class ClassificationPart(Part):
    """A ``ClassificationDataset`` and its ``options``."""

    task = "classification"
    dataset_name = "ClassificationDataset"
    results = "predictions.jsonl"
    outputs = MappingProxyType({"predictions": results})
    evaluator = "ImageClassification"
    classes_key = "classes"

    loader: str
    options: dict

    @classmethod
    def of_dataset(cls, loader: str, dataset: dict) -> ClassificationPart | None:
        """The part of a data set's options; None if the data set is not of this kind."""
        if kind_of(dataset) != "ClassificationDataset":
            return None
        return cls(loader, {key: dataset[key] for key in _OPTIONS if key in dataset})

    @cached_property
    def samples(self) -> Samples:
        samples = classification_samples(self.options)
        indices = checked_indices(self.options.get("indices"), f"{self.loader}.dataset")
        chosen = take(range(len(samples)), indices, self.loader)
        if not chosen:
            raise UserError(f"{self.loader}: indices={indices} leaves no image")
        return choose(samples, chosen)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.samples.classes

    @property
    def folders(self) -> tuple[Path, ...]:
        options = self.options
        if options.get("folder") is None and options.get("csv") is None:
            return ()
        return (Path(options.get("data_root") or "", options.get("folder") or ""),)

    @property
    def key(self) -> Hashable:
        return repr(sorted(self.options.items()))

    def require(self) -> None:
        require_files(self.samples, self.loader)

    def counts(self) -> str:
        return counted(len(self.samples), "image")

    def example(self) -> Path | None:
        first = self.samples.images[0]
        return first if isinstance(first, Path) else None

    def files(self) -> list[Path]:
        if isinstance(self.samples.images[0], Path):
            return [Path(image) for image in self.samples.images]
        # of shards that are read as a whole: others may hold images of several data sets
        is_whole = not (self.options.get("hold_out") or self.options.get("indices"))
        return [Path(path) for path in getattr(self.samples.dataset, "paths", ())] if is_whole else []

    def named_files(self) -> list[Path]:
        if self.options.get("csv") is None:
            return []
        return [Path(image) for image in classification_samples(self._whole).images]

    @property
    def _whole(self) -> dict:
        """The options without a choice among the images."""
        choices = ("hold_out", "hold_out_seed", "held_out", "indices")
        return {key: value for key, value in self.options.items() if key not in choices}

    def draw_sample(self, sample: Mapping[str, Any]) -> np.ndarray:
        guesses = logits_to_guesses(sample["scores"][None])[0]
        names = readable(self.classes)
        return draw_guesses(
            np.array(self.samples.open_named(sample["name"])),
            [names[label] for label in guesses.labels[:5].tolist()],
            guesses.scores[:5].cpu().numpy(),
        )

    def check(self, *, read: bool = True) -> ClassificationReport:
        report = check_classification(self.samples, read=read)
        if len(self.classes) > 1:
            return report
        finding = Finding("error", "one class", self.classes[0], ONE_CLASS)
        return replace(report, findings=(*report.findings, finding))

    @property
    def declared_classes(self) -> tuple[str, ...] | None:
        return _given_classes(self.options)

    def draw_summary(self, metric: Any, folder: Path, *, score: float) -> ScoreSummary:
        names = readable(metric.dataset_meta["classes"])
        draw_confusion(metric.confusion, names, folder / CONFUSION)
        rows = [
            (name, label, guess, share, loss)
            for name, label, (guess, *_), (share, *_), loss in metric.guesses
        ]
        rows.sort(key=lambda row: (row[1] == row[2], -row[4]))  # wrong guesses first, the highest loss first
        mistakes = write_mistakes(
            folder,
            (
                {"image": name, "label": self.classes[label], "guess": self.classes[guess]}
                | {"probability": round(share, 6), "loss": round(loss, 6)}
                for name, label, guess, share, loss in rows
            ),
        )
        files = {"confusion": CONFUSION, "mistakes": mistakes}
        wrong = [row for row in rows if row[1] != row[2]]
        if worst := wrong[:MOST_WORST]:
            captions = [
                (
                    f"predicted {names[guess]}, {100 * share:.0f} %",
                    f"true class {names[label]}, loss {loss:.2f}",
                )
                for _, label, guess, share, loss in worst
            ]
            images = (np.array(self.samples.open_named(name)) for name, *_ in worst)
            draw_worst_guesses(images, captions, folder / WORST)
            files["worst images"] = WORST
        return ScoreSummary(files, [name for name, *_ in rows], len(wrong))

    def draw(
        self,
        out_dir: Path,
        work_dir: Path,
        images: Sequence,
        *,
        score: float,
        format_only: bool = False,
        ranked: bool = False,
    ) -> int:
        lines = read_text(work_dir / self.results).splitlines()
        rows = {row["name"]: row for row in map(json.loads, lines)}
        return draw_guess_results(
            (
                GuessResult(
                    name,
                    np.array(self.samples.open_named(name)),
                    readable(rows[name]["guesses"]),
                    rows[name]["probabilities"],
                    readable([rows[name]["label"]])[0],
                )
                for name in images
            ),
            out_dir,
            ranks=len(images) if ranked else None,
        )


def classification_samples(options: dict) -> Samples:
    """The images and classes that the options of a ``ClassificationDataset`` name."""
    root, folder = Path(options.get("data_root") or ""), options.get("folder")
    csv, torchvision, shards = (options.get(key) for key in ("csv", "torchvision", "shards"))
    classes = _given_classes(options)
    if sum(value is not None for value in (csv, torchvision, shards)) > 1 or (
        folder and (torchvision or shards)
    ):
        raise UserError(
            "a ClassificationDataset has one of folder, csv (with folder), torchvision, shards, not several"
        )
    if torchvision:
        name = torchvision.get("name", "")
        further = {key: value for key, value in torchvision.items() if key != "name"}
        samples = read_torchvision(name, root, classes, **further)
    elif shards:
        samples = read_shards(str(root / shards), classes)
    elif csv:
        samples = read_csv(root / csv, root / (folder or ""), classes)
    elif folder is not None:
        samples = read_folder(root / folder, classes)
    else:
        raise UserError("a ClassificationDataset needs folder, csv, torchvision or shards")
    per_class = options.get("hold_out") or 0
    if not isinstance(per_class, int) or isinstance(per_class, bool) or per_class < 0:
        raise UserError(f"hold_out={per_class!r}, expected how many images per class are held out")
    if per_class:
        rest, drawn = hold_out(samples, per_class, options.get("hold_out_seed", 0))
        return drawn if options.get("held_out") else rest
    if options.get("held_out"):
        raise UserError("held_out=True with hold_out=0: no images are held out; set held_out=False")
    return samples


def _given_classes(options: dict) -> tuple[str, ...] | None:
    """The class names that the options list; None if the data decide."""
    classes = options.get("classes")
    if classes is None:
        return None
    return (
        tuple(imagenet_classes()) if classes == "imagenet" else class_names(classes, "the data set's classes")
    )
