"""Where a conversion puts images and the files of annotations beside them, one folder per split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

from hardnet_suite.data.boxes import BoxImage, split_name, without_image_folders
from hardnet_suite.data.conversion.target import unique_places
from hardnet_suite.data.files import is_utf8, normal_name
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.masks import MaskImage
from hardnet_suite.data.report import Finding
from hardnet_suite.errors import UserError

_Image = TypeVar("_Image", BoxImage, MaskImage)


def places_by_split(
    splits: Mapping[str, Sequence[_Image]], *, images: str, labels: str, suffix: str, named: bool = False
) -> Iterator[tuple[_Image, str, str]]:
    """Each image of each split with its place and that of its labels, both with "/".

    Folders called images are left out of both: readers of YOLO look for labels in the place of the last one.

    Args:
        splits: name -> images.
        images: the folder of images, with "{}" for the split.
        labels: likewise that of labels, which may be the same.
        suffix: how the names of labels end.
        named: the labels name their image, which may then have any suffix.

    Raises:
        UserError: two images would share their labels, or readers would skip one, see ``require_visible``.
    """
    first: dict[str, Path] = {}
    for split, members in splits.items():
        for image in members:
            *folders, last = image.name.removeprefix(f"{split}/").split("/")
            name = "/".join([*without_image_folders(folders), last])
            place = f"{images.format(split)}/{name}"
            label = f"{labels.format(split)}/{PurePosixPath(name).with_suffix(suffix)}"
            require_visible(name, image.path, by_suffix=not named)
            if label in first:
                raise UserError(f"{first[label]} and {image.path} would share {label}: rename one of them")
            first[label] = image.path
            yield image, place, label


def unique_stems(images: Iterable[_Image], label: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Name -> path of the images, which become one folder, and name -> its path without suffix in a list.

    Args:
        images: those of all splits.
        label: how the names of labels end.

    Raises:
        UserError: two images share a name or their labels, a list cannot hold a name, or readers would skip
            one, see ``require_visible``.
    """
    paths = unique_places(images)
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in paths}
    first: dict[str, str] = {}
    for name, stem in stems.items():
        require_visible(name, paths[name])
        key = normal_name(stem)  # as readers compare names, by which accents may be stored either way
        if first.setdefault(key, name) != name:
            raise UserError(f"{first[key]} and {name} would share {stem}{label}: rename one of them")
        if stem != stem.strip() or len(stem.splitlines()) != 1 or not is_utf8(stem):
            raise UserError(f"the name {name!r} cannot stand in a list of images: rename the image")
    return paths, stems


def require_visible(name: str, path: Path, *, by_suffix: bool = True) -> None:
    """Checks that readers which look for images in a folder find one.

    Args:
        name: its path in the folder.
        path: that in the source, for the message.
        by_suffix: readers take only files with the suffix of an image.

    Raises:
        UserError: it or a folder begins with a dot, or it has no such suffix.
    """
    if any(part.startswith(".") for part in PurePosixPath(name).parts):
        raise UserError(f"{path}: names that begin with a dot are hidden: rename the image")
    if by_suffix and not name.lower().endswith(IMAGE_SUFFIXES):
        raise UserError(f"{path}: images are known by suffixes such as .jpg and .png: rename the image")


def put_once(contents: dict[str, str | bytes], place: str, content: str | bytes, image: Path) -> None:
    """Adds the one file of annotations that an image has in all splits.

    Raises:
        UserError: it is there with another content.
    """
    if contents.setdefault(place, content) != content:
        raise UserError(
            f"{image} has other annotations in another split, but one {place}: convert each split to a "
            "folder of its own, with --splits"
        )


def unusual_splits(splits: Mapping[str, object], reader: str) -> list[Finding]:
    """A warning for each split that is not called train, val or test.

    Args:
        splits: name -> images.
        reader: what is read with these names alone, as a subject in the plural.
    """
    problem = f"{reader} have train, val and test: rename it in the source, or choose others with --splits"
    return [Finding("warning", "split", name, problem) for name in splits if split_name(name) != name]
