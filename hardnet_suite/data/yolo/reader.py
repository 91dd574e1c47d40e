"""The one reading of a YOLO data set.

The rules, those of Ultralytics and Roboflow:

- A YAML file has ``names`` (a list, or a dict of id and name) and, per split, ``train``, ``val`` (or
  ``valid``, ``validation``) and ``test``: a folder of images, a text file that lists images, or a list of
  these. They are relative to its ``path``, which is relative to the YAML file; a ``path`` of another machine
  is replaced by the folder of the YAML file, with a warning, and so is a leading "../" where that leads
  nowhere. Without a YAML file, ``classes.txt`` has one name per line, and the splits are the folders
  images/train or train/images and so on; images/ alone is train. Images under other names are left out,
  which is told.
- A name or id that YAML reads as another text, such as ``yes``, ``010`` (8) or ``12:30`` (750), is an error.
- The boxes of …/images/a.jpg are in …/labels/a.txt; without a folder images, beside the image. An image
  without that file has no objects. If no image of the data set has one, that is an error.
- A row is ``class x y width height``: the centre and size of a box as fractions of the upright image.
- A row of ``class x1 y1 x2 y2 x3 y3 …`` is a polygon (or a rotated box); its bounding box is used. With
  ``kpt_shape`` in the YAML file, the keypoints after a box are left out. Both are told.
- A row that repeats another one of its file is dropped, as are boxes without extent, outside of the image,
  or of numbers that are not finite. A box partly outside is cut. Each is told.
- A class beyond the names, another number of values, and coordinates in pixels are errors.
"""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from hardnet_suite.data.boxes import (
    OUTLINES,
    Box,
    BoxData,
    BoxImage,
    BoxTuple,
    clip_box,
    images_beside,
    outline_bounds,
    shared_images,
    split_name,
    target_name,
    told_left_out,
    upright_sizes,
)
from hardnet_suite.data.classes import class_names, read_class_names
from hardnet_suite.data.files import is_file, is_path, read_text, readings_of_line
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.data.report import Finding, counted
from hardnet_suite.errors import UserError
from hardnet_suite.names import first_repeated

FORMAT = "YOLO"
SPLITS = ("train", "val", "test")
_LARGEST_FRACTION = 2.0  # beyond which a coordinate is one in pixels
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_REWRITTEN = "!rewritten"  # the tag of numbers whose text differs from that of their value
_NAME_FILES = ("classes.txt", "obj.names")


@dataclass(frozen=True)
class _Rewritten:
    """A number of a YAML file that is written otherwise there: 010 is 8, 1.10 is 1.1, and 12:30 is 750."""

    text: str

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class _Layout:
    """Where a data set lies: class id -> name, split -> images, and what is odd about it."""

    root: Path
    names: Mapping[int, str]
    splits: Mapping[str, Sequence[Path]]
    folders: frozenset[Path]
    keypoints: int | None = None  # values after a box
    findings: list[Finding] = field(default_factory=list)
    told: Sequence[Path] = ()  # images that are told to be left out


def find_yaml(folder: Path) -> Path | None:
    """The YAML file of a YOLO data set in a folder; None where there is none.

    Raises:
        UserError: there are several.
    """
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if is_file(folder / name):
            return folder / name
    files = [path for pattern in ("*.yaml", "*.yml") for path in sorted(folder.glob(pattern))]
    own = [path for path in files if _is_data_set(path)]
    if len(own) > 1:
        raise UserError(f"{own[0]} and {own[1]} each describe a YOLO data set: give the path of one of them")
    return own[0] if own else None


def has_label_files(folder: Path) -> bool:
    """Whether a folder without a YAML file is a YOLO data set: names of classes and folders of labels."""
    if not any(is_file(folder / name) for name in _NAME_FILES):
        return False
    images = (path for _, place in _split_folders(folder) for path in walk_files(place, IMAGE_SUFFIXES)[:100])
    return any(_label_file(path) for path in images)


def read_yolo(source: str | Path) -> BoxData:
    """The images and boxes of a YOLO data set, by the rules of this module.

    Args:
        source: its folder, or its YAML file.

    Raises:
        UserError: there is no such data set, or a file of it is missing or cannot be read as these rules say.
    """
    source = Path(source)
    yaml_file = source if source.suffix.lower() in (".yaml", ".yml") else find_yaml(source)
    layout = _of_yaml(yaml_file) if yaml_file else _of_folder(source)
    findings = layout.findings
    paths = list(dict.fromkeys(path for images in layout.splits.values() for path in images))
    labels = {path: _label_file(path) for path in paths}
    _require_labels(source, labels)
    sizes = upright_sizes(paths)
    tally: Counter[str] = Counter()
    first_split = {path: split for split, members in [*layout.splits.items()][::-1] for path in members}
    images = {}
    for path in paths:
        file = labels[path]
        boxes = [] if file is None else _boxes(file, sizes[path], layout, findings, tally)
        name = target_name(path, layout.root, first_split[path])
        images[path] = BoxImage(path, name, sizes[path], tuple(boxes), file)
    splits = {split: [images[path] for path in members] for split, members in layout.splits.items()}
    findings += [
        *_totals(tally, len(paths), sum(file is None for file in labels.values())),
        *_unused_labels(labels),
        *_shared_labels(labels),
        *shared_images(splits),
        *_beside(paths, layout),
    ]
    folders = layout.folders | {path.parent for path in paths} | {f.parent for f in labels.values() if f}
    return BoxData(source, FORMAT, tuple(layout.names.values()), splits, tuple(findings), folders)


def _is_data_set(path: Path) -> bool:
    try:
        content = _read_yaml(path)
    except UserError:
        return False
    return isinstance(content, dict) and "names" in content and bool({*content} & {"train", "val", "valid"})


def _read_yaml(path: Path) -> Any:
    """The content of a YAML file; aliases, by which a small file can stand for a huge one, are an error."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise UserError(f"{path} has an alias (*name): write the value in its place")
            return super().compose_node(parent, index)

        def construct_mapping(self, node, deep=False):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            repeated = first_repeated(keys)
            if repeated is not None:
                raise UserError(f"{path} has the key {repeated!r} twice in one place: remove one of them")
            return super().construct_mapping(node, deep)

        def construct_document(self, node):
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            for number in _numbers(*(value for key, value in pairs if key.value == "names")):
                if str(self.yaml_constructors[number.tag](self, number)) != number.value:
                    number.tag = _REWRITTEN
            return super().construct_document(node)

    Loader.add_constructor(_REWRITTEN, lambda _, node: _Rewritten(node.value))
    try:
        return yaml.load(read_text(path), Loader)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None


def _numbers(*nodes: Any) -> Iterator[Any]:
    """The scalars within nodes of YAML that it reads as numbers."""
    for node in nodes:
        if not isinstance(node.value, str):
            yield from _numbers(*(chain(*node.value) if node.id == "mapping" else node.value))
        elif node.tag in _NUMBERS:
            yield node


def _of_yaml(path: Path) -> _Layout:
    content = _read_yaml(path)
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path} has no names: a YOLO data set's YAML file lists its classes and splits")
    findings: list[Finding] = []
    names = _class_names(content["names"], path)
    count = content.get("nc")
    if count is not None and count != len(names):
        raise UserError(f"{path} has nc: {count}, but {len(names)} names; correct one of them")
    root = _root(content.get("path"), path, findings)
    folders, splits = {path.parent}, {}
    for split in SPLITS:
        keys = [key for key in content if isinstance(key, str) and split_name(key) == split and content[key]]
        if len(keys) > 1:
            raise UserError(f"{path} has both {keys[0]} and {keys[1]}: keep one")
        if not keys:
            continue
        entries = content[keys[0]] if isinstance(content[keys[0]], list) else [content[keys[0]]]
        members: list[Path] = []
        for entry in entries:
            place = _place(entry, root, path, f"{path}: {keys[0]}")
            if place is None and split == "test":
                problem = f"{entry} does not exist; the split is left out"
                findings.append(Finding("warning", "split without images", f"{path.name}: test", problem))
                continue
            if place is None:
                raise UserError(
                    f"{path}: {keys[0]} is {entry}, which does not exist in {root}: correct it, or remove it"
                )
            folders.add(place if place.is_dir() else place.parent)
            members += _images_at(place, root)
        if members:
            splits[split] = _once(members, split, findings)
    if not splits:
        raise UserError(f"{path} names no folder of images: it needs train, val or test")
    others = {
        str(key): images
        for key, value in content.items()
        if key not in ("path", "names")
        and split_name(str(key)) is None
        and (images := _images_named(value, root, path))
    }
    findings += _left_out([*others], path.name)
    told = [image for images in others.values() for image in images]
    keypoints = _keypoints(content.get("kpt_shape"), path)
    return _Layout(root, names, splits, frozenset(folders), keypoints, findings, told)


def _images_named(value: Any, root: Path, file: Path) -> list[Path]:
    """The images of a value of the YAML file that is like those of splits; none of any other value."""
    entries = value if isinstance(value, list) else [value]
    images: list[Path] = []
    for entry in entries:
        is_text = isinstance(entry, str) and bool(entry) and is_path(entry)
        place = _place(entry, root, file, "") if is_text else None
        if place is None or (place.is_file() and place.suffix != ".txt"):
            return []
        try:
            images += _images_at(place, root)
        except UserError:
            return []
    return images


def _left_out(splits: Sequence[str], where: str) -> list[Finding]:
    """A warning where images are under the names of other splits."""
    problem = f"left out: {', '.join(splits)}; YOLO data sets have train, val and test"
    return [Finding("warning", "splits", where, problem)] if splits else []


def _class_names(value: Any, path: Path) -> dict[int, str]:
    """Class id -> name."""
    if not value or not isinstance(value, dict | list):
        raise UserError(f"{path} has names: {value!r}, expected a list of names, or id: name for each class")
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, name in pairs:
        if isinstance(key, bool) or not isinstance(key, int) or key < 0:
            raise UserError(f"{path}: names has the id {key!r}, expected 0, 1, 2 …")
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise UserError(f"{path}: names has {name!r} for the class {key}: write it in quotes")
    names = {key: str(name).strip() for key, name in sorted(pairs)}
    class_names(list(names.values()), f"{path}: names")
    return names


def _root(value: Any, path: Path, findings: list[Finding]) -> Path:
    if value is None:
        return path.parent
    if not isinstance(value, str):
        raise UserError(f"{path} has path: {value!r}, expected the folder of the data set")
    root = path.parent / os.path.expanduser(value)
    if os.path.isdir(root):
        return root
    problem = f"path is {value}, which does not exist; the folder of the file is used"
    findings.append(Finding("warning", "path of another machine", path.name, problem))
    return path.parent


def _place(entry: Any, root: Path, file: Path, where: str) -> Path | None:
    """The folder or list that an entry of a split names; None where there is none."""
    if not isinstance(entry, str) or not is_path(entry):
        raise UserError(f"{where} is {str(entry)[:60]!r}, expected the path of a folder of images")
    text = entry.replace("\\", "/")
    candidates = [root / os.path.expanduser(text)]
    shortened = text
    while shortened.startswith("../"):  # as Roboflow writes it
        shortened = shortened[3:]
    candidates += [root / shortened, file.parent / text]
    return next((place for place in candidates if os.path.exists(place)), None)


def _images_at(place: Path, root: Path) -> list[Path]:
    if place.is_dir():
        images = walk_files(place, IMAGE_SUFFIXES)
        # of a split's folder with images/ and labels/, the images alone
        inner = place / "images"
        if inner.is_dir() and (place / "labels").is_dir():
            images = walk_files(inner, IMAGE_SUFFIXES)
        if not images:
            raise UserError(f"{place} holds no image")
        return images
    try:
        lines = read_text(place).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{place} cannot be read: {error}; save it as UTF-8 text") from None
    images = [_listed(line, place, root) for line in lines if line.strip()]
    if not images:
        raise UserError(f"{place} names no image")
    return images


def _listed(line: str, file: Path, root: Path) -> Path:
    """The image that a line of a list names."""
    for text, folder in product(readings_of_line(line), (file.parent, root)):
        if is_path(text) and is_file(folder / text):
            return Path(os.path.normpath(folder / text))
    raise UserError(f"{file} names {line.strip()[:200]}, which does not exist in {file.parent} or {root}")


def _of_folder(folder: Path) -> _Layout:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: check the path")
    file = next((folder / name for name in _NAME_FILES if is_file(folder / name)), None)
    if file is None:
        raise UserError(
            f"{folder} has no data.yaml (names, train, val) and no classes.txt, of which YOLO needs one"
        )
    names = dict(enumerate(read_class_names(file)))
    findings: list[Finding] = _left_out(_other_folders(folder), folder.name)
    places = dict(_split_folders(folder))
    splits = {split: _once(_images_at(place, folder), split, findings) for split, place in places.items()}
    if not splits:
        raise UserError(f"{folder} has no folder images/ with images beside {file.name}")
    aside = [place for name, place in _named_folders(folder) if not split_name(name)]
    told = [path for place in aside for path in walk_files(place, IMAGE_SUFFIXES)]
    return _Layout(folder, names, splits, frozenset({folder, *places.values()}), None, findings, told)


def _split_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """Split -> folder of images, of a data set without a YAML file."""
    seen: dict[str, Path] = {}
    for name, place in _named_folders(folder):
        split = split_name(name)
        if split is None:
            continue
        if split in seen:
            raise UserError(f"{seen[split]} and {place} are both of the split {split}: rename one of them")
        seen[split] = place
        yield split, place
    if not seen and (folder / "images").is_dir() and (folder / "labels").is_dir():
        yield "train", folder / "images"


def _named_folders(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name -> folder of images of what may be a split: images/NAME and NAME/images."""
    for parent in filter(Path.is_dir, (folder / "images", folder)):
        for child in sorted(path for path in parent.iterdir() if path.is_dir()):
            place = child / "images" if parent == folder else child
            if place.is_dir():
                yield child.name, place


def _other_folders(folder: Path) -> list[str]:
    """The names of folders of images beside those of splits."""
    named = [*_named_folders(folder)]
    if not any(split_name(name) for name, _ in named):  # images/ is train, with its subfolders
        return []
    others = [name for name, place in named if not split_name(name) and walk_files(place, IMAGE_SUFFIXES)]
    top = folder / "images"
    has_own = top.is_dir() and any(path.suffix.lower() in IMAGE_SUFFIXES for path in top.iterdir())
    return [*others, *(["those of images/ itself"] if has_own else [])]


def _once(paths: Sequence[Path], split: str, findings: list[Finding]) -> list[Path]:
    for path, count in Counter(paths).items():
        if count > 1:
            message = f"appears {count} times in {split}; used once"
            findings.append(Finding("warning", "image named twice", path.name, message))
    return list(dict.fromkeys(paths))


def _keypoints(shape: Any, path: Path) -> int | None:
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(side, int) for side in shape)):
        raise UserError(f"{path} has kpt_shape: {shape!r}, expected [number, 2 or 3]")
    return shape[0] * shape[1]


def _label_file(image: Path) -> Path | None:
    """The file with the boxes of an image."""
    parts = list(image.parts)
    candidates = [image.with_suffix(".txt")]
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            labels = Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            candidates.insert(0, labels)
            break
    for path in candidates:
        # file systems differ in how they store accents
        for form in (path.name, *(unicodedata.normalize(kind, path.name) for kind in ("NFC", "NFD"))):
            if is_file(path.with_name(form)):
                return path.with_name(form)
    return None


def _require_labels(source: Path, labels: Mapping[Path, Path | None]) -> None:
    if any(labels.values()):
        return
    image = next(iter(labels))
    parts = list(image.parts)
    expected = image.with_suffix(".txt")
    if "images" in parts[:-1]:
        index = len(parts) - 1 - parts[::-1].index("images")
        expected = Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
    raise UserError(
        f"{source}: none of its {len(labels)} images has a file of boxes; that of {image} would be {expected}"
    )


def _boxes(
    file: Path, size: tuple[int, int], layout: _Layout, findings: list[Finding], tally: Counter[str]
) -> list[Box]:
    try:
        lines = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}; save it as UTF-8 text") from None
    boxes, seen = [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        name, coordinates = _row(line, layout, where)
        if (name, *coordinates) in seen:
            findings.append(Finding("warning", "box dropped", _short(file, number), "repeats another row"))
            continue
        seen.add((name, *coordinates))
        corners = _corners(coordinates, size, layout.keypoints, tally)
        if corners is None:
            problem = f"its coordinates {line.split(maxsplit=1)[1][:60]!r} are not finite numbers"
            findings.append(Finding("warning", "box dropped", _short(file, number), problem))
            continue
        bbox, changes = clip_box(corners, size)
        findings += [Finding("warning", kind, _short(file, number, name), what) for kind, what in changes]
        if bbox is not None:
            is_polygon = layout.keypoints is None and len(coordinates) > 4
            boxes.append(Box(name, bbox, outline=(_polygon(coordinates, size),) if is_polygon else ()))
    return boxes


def _short(file: Path, number: int, name: str = "") -> str:
    return f"{file.name}, line {number}" + (f", {name}" if name else "")


def _row(line: str, layout: _Layout, where: str) -> tuple[str, tuple[float, ...]]:
    """The class of a row and its other values.

    Raises:
        UserError: it is no row of boxes, of a class without a name, or in pixels.
    """
    words = line.split()
    try:
        values = tuple(map(float, words))
    except ValueError:
        raise UserError(f"{where}: expected numbers (class x y width height), got {line[:60]!r}") from None
    if "_" in line:  # which Python reads as 10 in "1_0"
        raise UserError(f"{where}: expected numbers (class x y width height), got {line[:60]!r}")
    count, expected = len(values) - 1, "class x y width height"
    if layout.keypoints is not None:
        wrong = count != 4 + layout.keypoints
        expected += f" and {layout.keypoints} values of keypoints (kpt_shape)"
    else:
        wrong = count != 4 and (count < 6 or count % 2)
        expected += ", or class x1 y1 x2 y2 x3 y3 …"
    if wrong:
        hint = " (are these predictions with scores?)" if count == 5 else ""
        raise UserError(f"{where}: has {count + 1} values, expected {expected}{hint}")
    label, *coordinates = values
    if label not in layout.names:
        numbers = _ranges(layout.names)
        raise UserError(
            f"{where}: has the class {words[0][:20]}, but names has {numbers}: correct one of them"
        )
    of_box = coordinates[:4] if layout.keypoints is not None else coordinates
    if any(math.isfinite(value) and abs(value) > _LARGEST_FRACTION for value in of_box):
        raise UserError(
            f"{where}: {line[:60]!r} is beyond the image; expected fractions of its width and height "
            "(0 to 1), got pixels?"
        )
    return layout.names[int(label)], tuple(coordinates)


def _corners(
    coordinates: Sequence[float], size: tuple[int, int], keypoints: int | None, tally: Counter[str]
) -> BoxTuple | None:
    """(x1, y1, x2, y2) in pixels; None where a number is not finite."""
    width, height = size
    if keypoints is not None:
        tally["rows with keypoints"] += 1
        coordinates = coordinates[:4]
    if not all(map(math.isfinite, coordinates)):
        return None
    if len(coordinates) == 4:
        x, y, w, h = coordinates
        return (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    tally["polygons"] += 1
    return outline_bounds([_polygon(coordinates, size)])


def _polygon(coordinates: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
    """(x1, y1, x2, y2 …) in pixels."""
    return tuple(value * size[index % 2] for index, value in enumerate(coordinates))


def _totals(tally: Counter[str], images: int, unlabelled: int) -> list[Finding]:
    """What is told once of the whole data set."""
    findings = []
    if unlabelled:
        problem = f"{unlabelled} of {images}; kept as images without objects"
        findings.append(Finding("warning", "images without label file", "the data set", problem))
    if tally["polygons"]:
        problem = f"{counted(tally['polygons'], 'row')}; bounding boxes are used"
        findings.append(Finding("warning", OUTLINES, "the data set", problem))
    if tally["rows with keypoints"]:
        problem = f"in {counted(tally['rows with keypoints'], 'row')}; left out, the boxes are used"
        findings.append(Finding("warning", "keypoints", "the data set", problem))
    return findings


def _beside(paths: Sequence[Path], layout: _Layout) -> list[Finding]:
    """A warning for images that no split names, beside those of the splits and in folders like theirs."""
    folders = {path.parent for path in paths} | {place for _, place in _named_folders(layout.root)}
    return told_left_out(images_beside([*paths, *layout.told], folders), "that no split names")


def _shared_labels(labels: Mapping[Path, Path | None]) -> list[Finding]:
    """A warning for each label file of several images, such as a.jpg and a.png."""
    first: dict[Path, Path] = {}
    findings = []
    for image, file in labels.items():
        if file is not None and first.setdefault(file, image) != image:
            where = f"{first[file].name} and {image.name}"
            problem = f"have one label file, {file.name}, whose boxes are those of both"
            findings.append(Finding("warning", "label file of several images", where, problem))
    return findings


def _unused_labels(labels: Mapping[Path, Path | None]) -> list[Finding]:
    """A warning for label files without an image, in the folders of those that have one."""
    used = {file for file in labels.values() if file}
    names = {*_NAME_FILES, "train.txt", "val.txt", "test.txt"}
    images = {path.parent for path in labels}
    folders = {file.parent for file in used} - images  # beside images other texts may lie
    stray = [
        file
        for folder in sorted(folders)
        for file in sorted(folder.glob("*.txt"))
        if file not in used and file.name not in names
    ]
    if not stray:
        return []
    problem = f"{len(stray)} label files have no image in a split; not used"
    return [Finding("warning", "label files without image", str(stray[0]), problem)]


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers in words: "0, 2 to 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
