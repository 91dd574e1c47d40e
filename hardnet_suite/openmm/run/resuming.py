"""What a run of ``train --data`` was chosen and trained on, and whether it can go on with other data.

What a checkpoint itself says of its run (tensors, optimizer, averages, schedule) is compared by the runner,
before ``SuiteRunner.begun``: until then, nothing of the run is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import content_key, real_path
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.recipes import Plan, Start
from hardnet_suite.run_folders import saved_checkpoints

_DESCRIPTION = "what a run was trained on, written by hardnet-suite train --data"
_CURE = "resume with the same data, or start a new run in another --work-dir"


@dataclass(frozen=True)
class Image:
    """An image of a split.

    Attributes:
        name: its path from the folder of the data where it is in it, which it keeps when that is moved; else
            the whole path.
        file: where it is, behind all links.
        content: see ``content_key``.
    """

    name: str
    file: str
    content: str | None

    @property
    def keys(self) -> tuple[tuple[str, str | None], ...]:
        """What two images have in common if they are one: any of these."""
        content = (("content", self.content),) if self.content is not None else ()
        return ("name", self.name), ("file", self.file), *content


@dataclass(frozen=True)
class RunRecord:
    """What a run was chosen, and trained on.

    Attributes:
        plan: model, classes, sizes, schedule and weights to begin with.
        images: split -> its images; of "train" also those that were before it was resumed with others.
    """

    plan: Plan
    images: Mapping[str, Sequence[Image]]

    def to_json(self) -> str:
        splits = {
            split: [[image.name, image.file, image.content] for image in images]
            for split, images in self.images.items()
        }
        content = {"plan": asdict(self.plan), "images": splits}
        info = {"description": _DESCRIPTION, "sha256": _digest_of(content)}
        return json.dumps({"info": info, **content})

    @classmethod
    def read(cls, folder: Path) -> RunRecord | None:
        """The record in the folder of a run; None where there is none as a run wrote it."""
        path = record_path(folder)
        if not is_record(path):
            return None
        content = read_json(path)
        try:
            plan = dict(content["plan"])
            plan |= {key: tuple(plan[key]) for key in ("classes", "size")} | {"start": Start(**plan["start"])}
            images = {split: [Image(*row) for row in rows] for split, rows in content["images"].items()}
            return cls(Plan(**plan), images)
        except (TypeError, KeyError):  # of another version
            return None

    def followed_by(self, images: Mapping[str, Sequence[Image]]) -> dict[str, Sequence[Image]]:
        """The images of the run that is resumed with these: what it was trained on stays."""
        trained = {(image.name, image.content): image for image in (*self.images["train"], *images["train"])}
        return {**images, "train": [*trained.values()]}


def record_path(folder: Path) -> Path:
    return folder / "annotations" / "data.json"


def is_record(path: Path) -> bool:
    """Whether a file is a record as a run wrote it."""
    try:
        content = read_json(path)
        info = content.pop("info")
        return info["description"] == _DESCRIPTION and info["sha256"] == _digest_of(content)
    except (UserError, TypeError, KeyError, AttributeError):
        return False


def resumed_record(resume: bool | str, work_dir: Path, say: Callable[[str], None]) -> RunRecord | None:
    """The record of the run that ``--resume`` goes on with.

    Args:
        resume: as of ``train``: True for the run in the work dir; else the path of a checkpoint, or of the
            folder of another run.
        work_dir: the folder.
        say: called with a line where there is a run, but no record of it.

    Returns:
        None where there is no run to resume, or nothing tells what it was trained on.
    """
    if not resume:
        return None
    folder, is_checkpoint = work_dir, False
    if isinstance(resume, str):
        is_checkpoint = Path(resume).is_file()  # of any name
        folder = Path(resume) if Path(resume).is_dir() else Path(resume).parent
    if not is_checkpoint and not saved_checkpoints(folder):
        return None
    record = RunRecord.read(folder)
    if record is None:
        path = record_path(folder)
        why = "is not as train --data wrote it" if path.exists() else "is missing"
        say(
            f"warning: {path} {why}, which tells what the run was trained on: whether images of other splits "
            "were among it is not checked, and what is not given is chosen anew"
        )
    return record


def images_of(splits: Mapping[str, Iterable[Path]], root: Path) -> dict[str, list[Image]]:
    """Split -> its images as a record has them; reads up to 8 KB of each.

    Args:
        splits: split -> its files.
        root: folder of the data.
    """

    def describe(path: Path) -> Image:
        return Image(relative_name(path, root), real_path(path), content_key(path))

    with ThreadPoolExecutor(4) as pool:
        return {split: [*pool.map(describe, paths)] for split, paths in splits.items()}


def relative_name(path: Path, root: Path) -> str:
    """The path of an image from the data folder where it is in it, else the whole path."""
    path = Path(os.path.abspath(path))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def require_resumable(
    record: RunRecord | None, model: str, classes: Sequence[str], images: Mapping[str, Sequence[Image]]
) -> None:
    """Checks that a run can go on with a model, classes and images, before anything of it is replaced.

    An image is known by its file, by its name in the data and by its content: it may have been moved, within
    the data or with them.

    Args:
        record: of the run; None: there is none to compare with.
        model: the name.
        classes: the names, in the order of the labels.
        images: split -> its images.

    Raises:
        UserError: model or classes are others, or images that the run was trained on would be scored.
    """
    if record is None:
        return
    before = record.plan
    if model != before.model:
        raise UserError(
            f"cannot resume: the run is of {before.model}, not {model}: resume with that model, or start a "
            "new run in another --work-dir"
        )
    if [*before.classes] != [*classes]:
        raise UserError(
            f"cannot resume: the classes are {', '.join(classes)}, those of the run "
            f"{', '.join(before.classes)}: {_CURE}"
        )
    trained = _keys(record.images["train"])
    for split in images.keys() - {"train"}:
        # an image of two splits, as of data that have no other images, was told when the run began
        leaking = trained - _keys(record.images.get(split, ()))
        known = [image for image in images[split] if not leaking.isdisjoint(image.keys)]
        if known:
            raise UserError(
                f"cannot resume: the data are others than those of the run, and {len(known)} of the "
                f"{counted(len(images[split]), 'image')} of {split}, such as {known[0].name}, were trained "
                f"on: {_CURE}"
            )


def _keys(images: Iterable[Image]) -> set[tuple[str, str | None]]:
    return {key for image in images for key in image.keys}


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
