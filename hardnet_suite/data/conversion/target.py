"""The folder that a conversion writes to: what may take which place in it, before anything is written."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from hardnet_suite.data.boxes import BoxImage
from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import sha256
from hardnet_suite.data.masks import MaskImage
from hardnet_suite.errors import UserError
from hardnet_suite.outputs import require_replaceable, whole_file

_MARK = re.compile("converted from .+ by hardnet-suite")
WORDS = {"writer": "conversion", "option": "folder"}


def mark(source_format: str) -> str:
    """What the annotation files that a conversion wrote say of themselves."""
    return f"converted from {source_format} by hardnet-suite"


def is_mark(text: object) -> bool:
    """Whether a text is a ``mark``."""
    return isinstance(text, str) and bool(_MARK.fullmatch(text))


def annotations_digest(content: Mapping[str, Any]) -> str:
    """The SHA-256 of COCO's annotations without their ``info``, which states it as "sha256"."""
    text = json.dumps({key: value for key, value in content.items() if key != "info"})
    return hashlib.sha256(text.encode()).hexdigest()


def unique_places(images: Iterable[BoxImage | MaskImage]) -> dict[str, Path]:
    """Name -> path of the images, which may lie in several folders and become one.

    Raises:
        UserError: two images have one name, or one would lie outside of the folder.
    """
    paths: dict[str, Path] = {}
    for image in images:
        require_inside(image.name)
        first = paths.setdefault(image.name, image.path)
        if first != image.path:
            raise UserError(f"two images have one name, {first} and {image.path}: rename one of them")
    return paths


def require_inside(place: str) -> None:
    """UserError where a path would lead out of the folder that it is in."""
    parts = PurePosixPath(place)
    if parts.is_absolute() or ".." in parts.parts:
        raise UserError(f"{place} would lie outside of the target: rename its folder in the data set")


def bring(path: Path, target: Path, link: bool) -> str:
    """Copies or links an image; returns the SHA-256 of what was brought."""
    with whole_file(target) as temporary:
        if link:
            temporary.symlink_to(path.resolve())
        else:
            shutil.copyfile(path, temporary)
        return sha256(temporary)


class SourceFolders:
    """The folders that hold files of the data set to convert, of which nothing may change."""

    def __init__(self, folders: Iterable[Path]):
        self._identities = {_identity(folder) for folder in folders}

    def holding(self, folder: Path) -> Path | None:
        """The folder of the source that a folder is or lies in, links followed."""
        real = Path(os.path.realpath(folder))
        parents = (parent for parent in (real, *real.parents) if os.path.exists(parent))
        return next((parent for parent in parents if _identity(parent) in self._identities), None)

    def require_outside(self, folder: Path) -> None:
        """UserError where a folder is one of the source's, or in one."""
        source = self.holding(folder)
        if source:
            raise UserError(
                f"{folder} is in {source}, a folder of the data set to convert: choose another folder"
            )


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
        self._sources = SourceFolders(sources)
        for folder in (path, self.annotations, self.images):
            require_folder(folder)
        self._sources.require_outside(self.annotations)
        read = ((file, _read_earlier(file)) for file in self.annotations.rglob("*.json"))
        earlier = {file: own for file, own in read if own is not None}
        self._listed = {file: own.images for file, own in earlier.items()}
        self._edited = {file for file, own in earlier.items() if own.is_edited}

    def images_to_write(
        self, annotations: Sequence[str], images: Mapping[str, Path], link: bool
    ) -> dict[str, Path]:
        """Those of the images that their places do not hold yet, after every check of what they replace.

        A file in a place is of an earlier conversion if an annotation file of one lists it with the SHA-256
        that it still has. Of a link that leads nowhere, the image to be written must have that SHA-256.

        Args:
            annotations: names of the annotation files to be written.
            images: file name -> image of the source.
            link: whether links are wanted rather than copies.

        Raises:
            UserError: a file that no earlier conversion wrote, or that was edited since, would be replaced,
                an image would no longer be the one that another annotation file lists, or the source would
                change.
        """
        files = {self.annotations / name for name in annotations}
        for file in sorted(files):
            require_replaceable(file, ({*self._listed} - self._edited).__contains__, **WORDS)
        kept = self.kept_files(annotations)
        passed = {step: image for image in images.values() for step in _steps(image)}
        due = {}
        in_source = {
            folder: self._sources.holding(folder) is not None
            for folder in {(self.images / name).parent for name in images}
        }
        for name, image in images.items():
            place = self.images / name
            entry = _entry(place)
            if os.path.exists(place) and place.samefile(image):
                to_copy = not link and not in_source[place.parent] and entry not in passed
                if to_copy and _is_link_of_conversion(place, image):
                    due[name] = image
            elif self._is_due(name, image, link, kept):
                if entry in passed:
                    raise UserError(f"{passed[entry]} is a link to {place}: choose another folder")
                due[name] = image
        for folder in sorted({(self.images / name).parent for name in due}):
            require_folder(folder)
            self._sources.require_outside(folder)
        return due

    def kept_files(self, annotations: Sequence[str]) -> list[Path]:
        """The annotation files of earlier conversions that stay beside those to be written."""
        return sorted({*self._listed} - {self.annotations / name for name in annotations})

    def _is_due(self, name: str, image: Path, link: bool, kept: Sequence[Path]) -> bool:
        """Whether an image must be written to its place, which is not it; UserError where it must not."""
        place = self.images / name

        def is_own(file: Path) -> bool:
            """Whether an earlier conversion wrote what is in the place."""
            return self._is_listed(name, file)

        if is_equal(place, image):
            return place.is_symlink() != link and is_own(place)
        leads_nowhere = place.is_symlink() and not os.path.exists(place)
        if not (leads_nowhere and is_own(image)):
            require_replaceable(place, is_own, **WORDS)
        for file in kept:
            if self._listed[file].get(name) and self._listed[file][name] != sha256(image):
                raise UserError(
                    f"{file} lists another image {name}: convert its split too, or choose another folder"
                )
        return True

    def _is_listed(self, name: str, file: Path) -> bool:
        """Whether an annotation file of a conversion lists an image with that name and the file's SHA-256."""
        digests = {listed.get(name) for listed in self._listed.values()} - {None}
        try:
            return bool(digests) and sha256(file) in digests
        except OSError:  # it cannot be read
            return False


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


def require_folder(path: Path) -> None:
    """UserError where something else is in the place of a folder, or of one that it is in."""
    for folder in (path, *path.parents):
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise UserError(f"{folder} is not a folder: move it away, or choose another folder")


def _is_link_of_conversion(place: Path, image: Path) -> bool:
    """Whether the place of an image is the link to it that a conversion writes, not a link of the user."""
    return place.is_symlink() and place.readlink() == image.resolve()


def is_equal(place: Path, image: Path) -> bool:
    try:
        return place.is_file() and filecmp.cmp(image, place, shallow=False)
    except OSError:  # a file of others that cannot be read
        return False


class _Earlier(NamedTuple):
    """An annotation file of an earlier conversion.

    Attributes:
        images: file name -> SHA-256; None in its place where the version that wrote the file wrote none.
        is_edited: it is not as the conversion wrote it; False where that cannot be known.
    """

    images: dict[str, str | None]
    is_edited: bool


def _read_earlier(path: Path) -> _Earlier | None:
    """What an annotation file says of the conversion that wrote it; None where none did."""
    try:
        content = read_json(path)
        info = content["info"]
        if is_mark(info["description"]):
            digests = {image["file_name"]: image.get("sha256") for image in content["images"]}
            images = {name: digest if isinstance(digest, str) else None for name, digest in digests.items()}
            return _Earlier(images, "sha256" in info and info["sha256"] != annotations_digest(content))
    except (UserError, TypeError, KeyError, AttributeError):
        pass
    return None
