"""The folder that a conversion writes to: what may take which place in it, before anything is written."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable

MARK = "converted from PASCAL VOC by hardnet-suite"  # in the annotation files that a conversion wrote
_WORDS = {"writer": "conversion", "option": "folder"}


class Target:
    """The places of annotation files (annotations/) and images (images/) in the target of a conversion.

    Args:
        path: the target; it need not exist.
        sources: the folders that hold files of the source, of which nothing may change.

    Raises:
        UserError: a file is in the place of a folder, or annotations/ is in the source.
    """

    def __init__(self, path: Path, sources: Iterable[Path]):
        self.annotations = path / "annotations"
        self.images = path / "images"
        self._sources = {_identity(folder) for folder in sources}
        for folder in (path, self.annotations, self.images):
            _require_folder(folder)
        self._require_outside(self.annotations)

    def require_replaceable(self, names: Sequence[str]) -> None:
        """UserError where an annotation file would replace a file that no earlier conversion wrote."""
        for name in names:
            require_replaceable(self.annotations / name, _has_mark, **_WORDS)

    def images_to_write(self, images: Mapping[str, Path], link: bool) -> list[str]:
        """The images whose place does not hold them yet.

        Args:
            images: file name -> image of the source.
            link: whether links are wanted rather than copies.

        Raises:
            UserError: another file is in a place and no earlier conversion wrote it, or writing would change
                the source.
        """
        own = any(map(_has_mark, self.annotations.glob("*.json")))
        passed = {step: image for image in images.values() for step in _steps(image)}
        keep = self._folder_of_source(self.images) is not None
        due = []
        for name, image in images.items():
            place = self.images / name
            if os.path.exists(place) and place.samefile(image):
                swap = not link and not keep and _entry(place) not in passed
                if swap and _is_link_of_conversion(place, image):
                    due.append(name)
            elif _is_due(place, image, link, lambda _: own):
                if _entry(place) in passed:
                    raise UserError(f"{passed[_entry(place)]} is a link to {place}: choose another folder")
                due.append(name)
        if due:
            self._require_outside(self.images)
        return due

    def _require_outside(self, folder: Path) -> None:
        """UserError where a folder is one of the source's, or in one."""
        source = self._folder_of_source(folder)
        if source:
            raise UserError(
                f"{folder} is in {source}, a folder of the data set to convert: choose another folder"
            )

    def _folder_of_source(self, folder: Path) -> Path | None:
        """The folder of the source that a folder is or lies in, links followed."""
        real = Path(os.path.realpath(folder))
        parents = (parent for parent in (real, *real.parents) if os.path.exists(parent))
        return next((parent for parent in parents if _identity(parent) in self._sources), None)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _entry(path: Path) -> Path:
    """A path without links to folders; the last part may be a link."""
    return Path(os.path.realpath(path.parent), path.name)


def _steps(path: Path) -> Iterator[Path]:
    """The places that a link leads over, up to the file."""
    while path.is_symlink():
        path = path.parent / path.readlink()
        yield _entry(path)


def _require_folder(path: Path) -> None:
    """UserError where something else is in the place of a folder, or of one that it is in."""
    for folder in (path, *path.parents):
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder: move it away, or choose another folder")


def _is_due(place: Path, image: Path, link: bool, is_own: Callable[[Path], bool]) -> bool:
    """Whether an image must be written to its place, which is not it; UserError where a file of others is."""
    if not os.path.lexists(place):
        return True
    if _is_equal(place, image):
        return place.is_symlink() != link and is_own(place)
    if not is_own(place):
        require_replaceable(place, lambda _: False, **_WORDS)
    return True


def _is_link_of_conversion(place: Path, image: Path) -> bool:
    """Whether the place of an image is the link to it that a conversion writes, not a link of the user."""
    return place.is_symlink() and place.readlink() == image.resolve()


def _is_equal(place: Path, image: Path) -> bool:
    try:
        return place.is_file() and filecmp.cmp(image, place, shallow=False)
    except OSError:  # a file of others that cannot be read
        return False


def _has_mark(path: Path) -> bool:
    try:
        return read_json(path)["info"]["description"] == MARK
    except (UserError, TypeError, KeyError):
        return False
