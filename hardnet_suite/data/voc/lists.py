"""The lists of a VOC data set (ImageSets/Main/*.txt) and the files that their lines name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from hardnet_suite.data.boxes import images_beside
from hardnet_suite.data.files import by_stem, is_path, normal_name, read_text, stem_of
from hardnet_suite.data.images import IMAGE_SUFFIXES, walk_files
from hardnet_suite.errors import UserError

SPLITS = ("train", "val", "test")
_FLAGS = frozenset({"1", "+1", "-1", "0"})  # second column of a one-class list


@dataclass(frozen=True)
class Entry:
    """One line of a list: a path below JPEGImages/ without suffix, and the suffix where the line has one."""

    stem: str
    suffix: str = ""


def without_column(lines: Sequence[str]) -> list[str] | None:
    """The lines without the second column of a one-class list; None where not every line ends like it."""
    parts = [line.rsplit(maxsplit=1) for line in lines]
    is_marked = all(len(part) == 2 and part[1] in _FLAGS for part in parts)
    return [part[0] for part in parts] if is_marked else None


class VocFolder:
    """The images and annotations of a VOC folder by stem: their path without suffix, in NFC.

    Args:
        source: the folder that holds Annotations/, ImageSets/Main/ and JPEGImages/.

    Raises:
        UserError: one of the three folders is missing.
    """

    def __init__(self, source: Path):
        self.annotation_folder = source / "Annotations"
        self.image_folder = source / "JPEGImages"
        self.list_folder = source / "ImageSets" / "Main"
        for folder in (self.annotation_folder, self.image_folder, self.list_folder):
            if not folder.is_dir():
                raise UserError(
                    f"no folder {folder}: a VOC data set has Annotations/*.xml, JPEGImages/* and "
                    "ImageSets/Main/train.txt"
                )
        self._annotations = by_stem(walk_files(self.annotation_folder, (".xml",)), self.annotation_folder)
        self._images = by_stem(walk_files(self.image_folder, IMAGE_SUFFIXES), self.image_folder)

    def read_lists(self, splits: Sequence[str] | None) -> dict[str, list[Entry]]:
        """The entries per split, in the order of the lists.

        Args:
            splits: names of lists; None takes those of train, val and test that exist.

        Raises:
            UserError: a list is missing, unreadable or empty, or can be read in two ways.
        """
        chosen = splits
        if splits is None:
            chosen = [name for name in SPLITS if (self.list_folder / f"{name}.txt").is_file()]
        if not chosen:
            others = ", ".join(self.other_lists()) or "none"
            raise UserError(
                f"none of train.txt, val.txt, test.txt in {self.list_folder}: name the splits with --splits "
                f"(there are: {others})"
            )
        return {split: self._read_list(split) for split in chosen}

    def other_lists(self) -> list[str]:
        """The names of lists that ``read_lists`` takes only if they are asked for by name.

        Lists of one class, which have a second column, are none, nor is trainval where train and val exist.
        """
        names = {path.stem for path in self.list_folder.glob("*.txt") if path.is_file()}
        known = {*SPLITS, "trainval"} if {"train", "val"} <= names else {*SPLITS}
        return sorted(name for name in names - known if not self._is_of_one_class(name))

    def images_beside(self, read: Iterable[str], used: Collection[Path]) -> list[Path]:
        """The images that are not used, and that none of the other lists names.

        Args:
            read: the lists whose images are used, some perhaps by the <filename> of their annotation.
            used: these images.
        """
        left = images_beside(used, [self.image_folder])
        lists = {*SPLITS, "trainval", *self.other_lists()} - {*read} if left else ()
        listed: set[str] = set()
        for name in lists:
            try:
                listed |= {entry.stem for entry in self._read_list(name)}
            except UserError:  # not there, or empty
                continue
        return [path for path in left if stem_of(path, self.image_folder) not in listed]

    def _is_of_one_class(self, name: str) -> bool:
        try:
            lines = read_text(self.list_folder / f"{name}.txt").split("\n")
        except (OSError, UnicodeDecodeError):
            return False
        lines = [line.strip() for line in lines if line.strip()]
        is_marked = all(len(part := line.split()) > 1 and part[-1] in _FLAGS for line in lines)
        return is_marked and not (lines and self._exists(self._resolve(lines[0])))  # a name such as "cat 1"

    def annotation(self, entry: Entry) -> Path | None:
        """The XML file of an entry; None where there is none."""
        paths = self._annotations.get(entry.stem, [])
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} annotate one image: remove one of them")
        return paths[0] if paths else None

    def image(self, entry: Entry, filename: str = "") -> Path:
        """The image of an entry: by its stem, and only where no image has it, by its annotation's <filename>.

        Args:
            entry: a line of a list.
            filename: the annotation's <filename>; folders in it are ignored, those of Windows too.

        Raises:
            UserError: there is no such image, or several.
        """
        name = _entry(PureWindowsPath(filename).name) if filename else None
        paths = self._images.get(entry.stem, [])
        suffix = entry.suffix
        if name and not suffix and name.stem == PurePosixPath(entry.stem).name:
            suffix = name.suffix
        if not paths and name:  # annotation tools often leave the name of another image here
            beside = PurePosixPath(entry.stem).parent / name.stem
            paths = self._images.get(str(beside)) or self._images.get(name.stem, [])
            suffix = name.suffix
        matching = [path for path in paths if path.suffix.lower() == suffix.lower()]
        if len(paths) > 1 and len(matching) != 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(
                f"{entry.stem} stands for several images in {paths[0].parent}, {names}: "
                "write the name with its suffix in the list, or remove one of them"
            )
        if not paths:
            tried = entry.stem + (f" or {name.stem}" if name and name.stem != entry.stem else "")
            name = PurePosixPath(entry.stem).name
            near = f", or write {name} for {name} in that folder" if name in self._images else ""
            raise UserError(
                f"no image {tried} (with a suffix such as .jpg or .png) in {self.image_folder}: "
                f"add it, or remove {entry.stem} from the lists{near}"
            )
        return matching[0] if len(matching) == 1 else paths[0]

    def _read_list(self, split: str) -> list[Entry]:
        path = self.list_folder / f"{split}.txt"
        if not path.is_file():
            existing = ", ".join(sorted(file.stem for file in self.list_folder.glob("*.txt"))) or "none"
            raise UserError(f"no split {split}: no file {path} (there are: {existing})")
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}; save it as UTF-8 text") from None
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if not lines:
            raise UserError(f"{path} names no image")
        if wrong := next((line for line in lines if not is_path(line)), None):
            raise UserError(f"{path} has a line longer than any path: {wrong[:60]}…")
        return self._entries(path, lines)

    def _entries(self, path: Path, lines: list[str]) -> list[Entry]:
        """The lines as names, without the second column (1, 0 or -1) that the list of one class has.

        A name may end in a number too ("my cat 1"): what ends every line is a column only if the names
        without it exist.
        """
        names = [self._resolve(line) for line in lines]
        shortened = without_column(lines)
        if shortened is None:
            return names
        columns = [self._resolve(line) for line in shortened]
        as_names, as_columns = (sum(map(self._exists, entries)) for entries in (names, columns))
        if as_names == as_columns == len(lines):
            raise UserError(
                f"{path} can be read in two ways, as {lines[0]!r} and {shortened[0]!r} both exist: write the "
                "names with their suffix"
            )
        return names if as_names > as_columns else columns

    def _exists(self, entry: Entry) -> bool:
        return entry.stem in self._annotations or entry.stem in self._images

    def _resolve(self, text: str) -> Entry:
        """A name of a list; "a.jpg" is the stem "a" unless an annotation or an image is called "a.jpg.*".

        Paths that hold VOC's folder, and absolute ones of another machine, name the image at their end.
        """
        return next(filter(self._exists, candidates(text)), _entry(text))


def candidates(text: str) -> Iterator[Entry]:
    """What a line may name, best first: itself, what follows VOC's folder, the ends of an absolute path."""
    yield Entry(normal_name(text))
    yield _entry(text)
    parts = PurePosixPath(normal_name(text)).parts
    folders = [number for number, part in enumerate(parts) if part in ("JPEGImages", "Annotations")]
    if folders:
        yield _entry("/".join(parts[folders[-1] + 1 :]))
    elif PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        for start in range(1, len(parts)):
            yield _entry("/".join(parts[start:]))


def _entry(text: str) -> Entry:
    path = PurePosixPath(normal_name(text))
    if path.suffix.lower() in (*IMAGE_SUFFIXES, ".xml"):
        suffix = "" if path.suffix.lower() == ".xml" else path.suffix
        return Entry(str(path.with_suffix("")), suffix)
    return Entry(str(path))
