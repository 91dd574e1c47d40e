"""Predictions in a folder: drawings, masks, and the ``predictions.jsonl`` that names them."""

from __future__ import annotations

import contextlib
import json
import mimetypes
import os
import stat
import unicodedata
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet_suite.data.files import is_file, read_text
from hardnet_suite.data.images import IMAGE_SUFFIXES
from hardnet_suite.data.segmentation import LabelSet
from hardnet_suite.data.segmentation.label_images import label_image
from hardnet_suite.data.sources import JSON_LINES, VIDEO_SUFFIXES, stem_of
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import LONGEST_STEM, FolderLock, short_stem
from hardnet_suite.visualization.canvas import write_image

if TYPE_CHECKING:
    from hardnet_suite.prediction.result import Prediction

_ENDINGS = {"drawing": ".jpg", "mask": "_mask.png"}  # a row's key -> what follows the stem
_START = '{"name": '  # of every line, however early its writing was interrupted
# of files, beside those that Python's table of media types has
_OTHER_FILES = (".jsonl", ".ndjson", ".yaml", ".yml", ".toml", ".npy", ".npz", ".pth")
_FILE_SUFFIXES = frozenset((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *_OTHER_FILES))
_PARTIAL = ".hardnet-suite-partial_"  # a hidden file, which images_of skips, until it is complete


@dataclass(frozen=True)
class _Line:
    text: str
    source: str | None
    files: dict[str, str]  # "drawing" and "mask" -> file name


@dataclass(frozen=True)
class StagedPrediction:
    """A prediction that is drawn, but has no name in its folder yet.

    Attributes:
        name: of the image.
        source: absolute path or address of the image; None of images in memory and of cameras.
        row: of the JSON, without the names of the files; a mask has a place in it.
        files: "drawing" and "mask" -> name of the hidden file that holds it.
    """

    name: str
    source: str | None
    row: dict[str, Any]
    files: dict[str, str]


class DrawingStage:
    """Draws predictions into hidden files of a folder, in any thread or process.

    Args:
        folder: exists once something is drawn.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._names: set[str] = set()

    def add(self, prediction: Prediction) -> StagedPrediction:
        """Draws a prediction.

        Raises:
            UserError: scores or boxes are not finite, or a file cannot be written.
        """
        row = replace(prediction, mask=None).to_dict()
        files = {"drawing": _PARTIAL + uuid.uuid4().hex + _ENDINGS["drawing"]}
        json_of(row)
        if prediction.mask is not None:
            row["mask"] = None
            files["mask"] = files["drawing"].removesuffix(_ENDINGS["drawing"]) + _ENDINGS["mask"]
        self._names.update(files.values())
        staged = StagedPrediction(prediction.name, _identity(prediction), row, files)
        try:
            write_image(self.folder / files["drawing"], np.array(prediction.draw()))
            if prediction.mask is not None:
                labels = LabelSet("", (), prediction.palette or ())
                label_image(prediction.mask, labels).save(self.folder / files["mask"])
        except BaseException as error:
            self.discard(staged)
            if isinstance(error, OSError):
                raise _cannot_write(self.folder, error) from None
            raise
        return staged

    def hand_over(self, staged: StagedPrediction) -> None:
        """Leaves the files of a prediction to the stage of another process."""
        self._names.difference_update(staged.files.values())

    def take_over(self, several: Iterable[StagedPrediction]) -> None:
        """Takes care of what other processes have drawn in the folder."""
        for staged in several:
            self._names.update(staged.files.values())

    def discard(self, staged: StagedPrediction | None = None) -> None:
        """Removes the files of a prediction, or of all."""
        for name in [*self._names] if staged is None else staged.files.values():
            (self.folder / name).unlink(missing_ok=True)
            self._names.discard(name)


class PredictionWriter:
    """Writes predictions into a folder: STEM.jpg, for masks STEM_mask.png, and one line of JSON per image.

    A mask holds one class index per pixel, in the colours of the classes (mode P).

    ``predictions.jsonl`` names exactly the drawings and masks of the folder: predictions of other images are
    added to those of earlier runs, a prediction of the same image (the same absolute path, address or frame)
    replaces its line, drawing and mask. Images in memory and camera frames are always added. Equal stems are
    numbered, without regard to case; a file that no line names is never overwritten. One process at a time
    may write into a folder: another one is refused until the writer is garbage. A ``predictions.jsonl`` that
    is a link, or has a second name elsewhere, is replaced by a new file before its first new line.

    Args:
        folder: may be missing; it is created by ``create`` or by the first ``write``.

    Raises:
        UserError: the folder is missing and its name is empty or that of a file, it cannot be read, holds a
            ``predictions.jsonl`` of another kind, or another process writes into it.
    """

    def __init__(self, folder: str | Path):
        _require_folder_name(folder)
        self.folder = Path(folder)
        self.stage = DrawingStage(self.folder)
        self._path = self.folder / JSON_LINES
        self._lock: FolderLock | None = None
        self._leftover: list[str] = []  # partial files of a killed process
        self._taken: set[str] = set()
        self._outdated = False  # the file differs from _lines, so that it is rewritten as a whole
        self._lines: dict[str, _Line] = {}  # by the key of the stem
        self._by_source: dict[str, str] = {}  # image -> the key of its last line
        if self.folder.is_dir():
            self._lock_and_read()

    def create(self) -> None:
        """Creates the folder and ``predictions.jsonl`` where they are missing, and removes partial files.

        Raises:
            UserError: the folder is not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock_and_read()
            if not os.path.lexists(self._path):
                self._path.open("x").close()  # follows no link
            elif not self._is_shared():
                self._path.open("a").close()
            while self._leftover:
                (self.folder / self._leftover.pop()).unlink(missing_ok=True)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None

    def write(self, prediction: Prediction, stem: str | None = None) -> Path:
        """Writes one prediction.

        Args:
            prediction: its ``source`` is drawn on.
            stem: of the file names; default: that of the image's earlier prediction, or the image's own, with
                a number where another file has it. A file of a given stem is overwritten, unless it is the
                image itself.

        Returns:
            The path of the drawing.

        Raises:
            UserError: scores or boxes are not finite, or a file cannot be written.
            ValueError: a stem that contains a folder.
        """
        self.create()
        if stem is not None:
            stem = self._given_stem(prediction.name, stem)
        return self.place(self.stage.add(prediction), stem)

    def place(self, staged: StagedPrediction, stem: str | None = None) -> Path:
        """Writes a prediction that is drawn already, by the rules of ``write``.

        Args:
            staged: of the writer's ``stage``, or of that of another process.
            stem: of the file names, which is allowed; None: as of ``write``.

        Returns:
            The path of the drawing.

        Raises:
            UserError: a file cannot be written.
        """
        try:
            key, line, earlier = self._line_of(staged, stem)
            obsolete = self._put(key, line, earlier)
            self._move(staged, line, obsolete)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        finally:
            self.stage.discard(staged)
        self._note_files(line, obsolete)
        return self.folder / line.files["drawing"]

    def place_all(self, several: Iterable[StagedPrediction]) -> list[Path]:
        """``place`` for each in turn; ``predictions.jsonl`` takes its place once, with all of the lines.

        Returns:
            The paths of the drawings; that of a repeated image repeats.

        Raises:
            UserError: a file cannot be written.
        """
        placed: list[tuple[StagedPrediction, _Line, list[str]]] = []
        for staged in several:
            key, line, earlier = self._line_of(staged, None)
            obsolete = self._obsolete(key, line, earlier)
            if earlier is None or earlier == key:
                self._lines[key] = line
            else:
                self._lines = self._with(key, line, earlier)
            if line.source is not None:
                self._by_source[line.source] = key
            self._note_files(line, obsolete)
            placed.append((staged, line, obsolete))
        try:
            self._rewrite(self._lines)
            for staged, line, obsolete in placed:
                self._move(staged, line, obsolete)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None
        finally:
            for staged, _, _ in placed:
                self.stage.discard(staged)
        return [self.folder / line.files["drawing"] for _, line, _ in placed]

    def _line_of(self, staged: StagedPrediction, stem: str | None) -> tuple[str, _Line, str | None]:
        """The key and the line of a prediction, and the key of an earlier line that it replaces."""
        source = staged.source
        earlier = self._earlier(source) if stem is None else None
        stem = self._free_stem(staged.name, earlier) if stem is None else stem
        files = {key: stem + _ENDINGS[key] for key in staged.files}
        row = staged.row | ({} if source is None else {"source": source}) | files
        return _key(stem), _Line(json.dumps(row), source, files), earlier

    def _move(self, staged: StagedPrediction, line: _Line, obsolete: list[str]) -> None:
        for key, name in line.files.items():
            os.replace(self.folder / staged.files[key], self.folder / name)
        for path in map(self.folder.joinpath, obsolete):
            # two names may differ in case only
            if not any(_is_same(path, self.folder / name) for name in line.files.values()):
                path.unlink(missing_ok=True)

    def _note_files(self, line: _Line, obsolete: list[str]) -> None:
        self._taken -= {_key(name) for name in obsolete}
        self._taken |= {_key(name) for name in line.files.values()}

    def _lock_and_read(self) -> None:
        """Reads the folder under its lock: no other process writes into it from now on."""
        try:
            self._lock = FolderLock(self.folder)
            names = os.listdir(self.folder)
            self._taken = {_key(name) for name in names}
            self._leftover = [name for name in names if name.startswith(_PARTIAL)]
            content = read_text(self._path) if _key(JSON_LINES) in self._taken else ""
        except BlockingIOError:
            raise UserError(
                f"another process writes predictions into {self.folder}: wait for its end, or choose another "
                "folder"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {self._path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise self._foreign(1, "bytes that are not UTF-8") from None
        self._read(content)

    def _read(self, content: str) -> None:
        complete, _, last = content.rpartition("\n")
        texts = complete.split("\n") if complete else []
        if last and not (_is_cut(last) or last.isspace()):
            texts.append(last)
        self._outdated = bool(last)  # so that the next line starts on a line of its own
        for number, text in enumerate(texts, 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
                files = _files_of(row)
            except (ValueError, RecursionError):
                raise self._foreign(number, text) from None
            present = {key: name for key, name in files.items() if is_file(self.folder / name)}
            if present != files:
                self._outdated = True
                row = {key: value for key, value in row.items() if key not in files or key in present}
                text = json.dumps(row)
            if not present:
                continue
            source = row.get("source") or (_absolute(row["name"]) if os.path.isabs(row["name"]) else None)
            stem = next(name.removesuffix(_ENDINGS[key]) for key, name in present.items())
            self._outdated |= _key(stem) in self._lines
            self._lines[_key(stem)] = _Line(text, source, present)
        self._by_source = _last_lines(self._lines)

    def _foreign(self, number: int, text: str) -> UserError:
        return UserError(
            f"{self._path}, line {number}: expected a line that predict wrote (a JSON object with name, task "
            f"and drawing), got {text[:60]!a}; choose another folder, or move the file away"
        )

    def _earlier(self, source: str | None) -> str | None:
        """The key of the last line of the same image."""
        return None if source is None else self._by_source.get(source)

    def _free_stem(self, image: str, earlier: str | None) -> str:
        own = () if earlier is None else self._lines[earlier].files.values()
        own_keys = {_key(name) for name in own if not _is_same(self.folder / name, image)}

        def is_free(stem: str) -> bool:
            names = [stem + ending for ending in _ENDINGS.values()]
            return all(
                _key(name) in own_keys
                or not (_key(name) in self._taken or os.path.lexists(self.folder / name))
                for name in names
            )

        if earlier is not None:
            key, name = next(iter(self._lines[earlier].files.items()))
            if is_free(stem := name.removesuffix(_ENDINGS[key])):
                return stem
        short = short_stem(stem_of(image).encode(errors="ignore").decode())
        return _numbered(short.strip(" .") or "image", is_free)

    def _given_stem(self, image: str, stem: str) -> str:
        if not stem or stem != os.path.basename(stem) or "\\" in stem or "\0" in stem:
            raise ValueError(f"expected the stem of a file name, got {stem!r}")
        if short_stem(stem) != stem:
            raise UserError(
                f"the stem {stem[:20]!r}… is too long for a file name: expected up to {LONGEST_STEM} bytes"
            )
        for ending in _ENDINGS.values():
            path = self.folder / (stem + ending)
            if path.is_dir():
                raise UserError(f"cannot write {path}: it is a folder; choose another name")
            if _is_same(path, image):
                raise UserError(f"{path} is the image itself: choose another folder or name for its drawing")
        return stem

    def _is_shared(self) -> bool:
        """Whether an appended line would change another folder's file: by a link, or by a second name."""
        status = self._path.lstat()
        return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1

    def _put(self, key: str, line: _Line, earlier: str | None) -> list[str]:
        """Brings a line into the file; the names of the files that no line names any more."""
        replaced = [self._lines[other] for other in {key, earlier} if other in self._lines]
        obsolete = self._obsolete(key, line, earlier)
        if [line] == replaced and not self._outdated:
            return []
        if replaced or self._outdated or self._is_shared():
            lines = self._with(key, line, earlier)
            self._rewrite(lines)
            self._lines, self._by_source = lines, _last_lines(lines)
        else:
            self._outdated = True  # until the line is complete
            with self._path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(f"{line.text}\n")
            self._lines[key] = line
            if line.source is not None:
                self._by_source[line.source] = key
        self._outdated = False
        return obsolete

    def _obsolete(self, key: str, line: _Line, earlier: str | None) -> list[str]:
        """The names of the files that no line names any more once a line replaces others."""
        replaced = [self._lines[other] for other in {key, earlier} if other in self._lines]
        return sorted({name for old in replaced for name in old.files.values()} - set(line.files.values()))

    def _with(self, key: str, line: _Line, earlier: str | None) -> dict[str, _Line]:
        """The lines with another one, in the place of an earlier one of the same image."""
        lines = {key if other == earlier else other: old for other, old in self._lines.items()}
        return lines | {key: line}

    def _rewrite(self, lines: dict[str, _Line]) -> None:
        """Replaces the file as a whole."""
        partial = self.folder / (_PARTIAL + JSON_LINES)
        try:
            partial.write_text("".join(f"{each.text}\n" for each in lines.values()), encoding="utf-8")
            os.replace(partial, self._path)
        finally:
            partial.unlink(missing_ok=True)
        self._outdated = False


def _cannot_write(folder: Path, error: OSError) -> UserError:
    """The error names the folder alone: what is written there has a hidden name until it is complete."""
    return UserError(explain(WriteError(error.errno, error.strerror or str(error), None), folder))


def failure_line(name: str | None, reason: str) -> str:
    """What files of lines hold for an image that cannot be read, as one line of JSON."""
    return json_of({"name": name, "error": reason})


def json_of(row: dict[str, Any]) -> str:
    """The row of a prediction as one line of JSON.

    Raises:
        UserError: scores or boxes are not finite, which JSON has no numbers for.
    """
    try:
        return json.dumps(row, allow_nan=False)
    except ValueError:
        raise UserError(
            f"cannot write the prediction of {row['name']}: expected finite scores and boxes, got NaN or "
            "infinity; check the weights"
        ) from None


def _require_folder_name(folder: str | Path) -> None:
    if not str(folder):
        raise UserError("the name of the folder or file for predictions is empty")
    suffix = Path(folder).suffix.lower()
    is_file_name = suffix in _FILE_SUFFIXES or any(mimetypes.MimeTypes().guess_type(f"a{suffix}"))
    if is_file_name and not os.path.isdir(folder):
        raise UserError(
            f"{folder}: expected a folder, or a file .jpg, .png, of a video .mp4, of predict --out also "
            ".jsonl; a folder with such a name must exist"
        )


def _last_lines(lines: dict[str, _Line]) -> dict[str, str]:
    """The key of the last line of every image."""
    return {line.source: key for key, line in lines.items() if line.source is not None}


def _numbered(stem: str, is_free: Callable[[str], bool]) -> str:
    """``stem``, or with the first free number after it: x, x_2, x_3."""
    return next(name for name in chain([stem], (f"{stem}_{n}" for n in count(2))) if is_free(name))


def _key(name: str) -> str:
    """Equal for names that are one file on some file system."""
    return unicodedata.normalize("NFC", name).casefold()


def _identity(prediction: Prediction) -> str | None:
    """What is the same for each prediction of one image; None for images in memory and of cameras."""
    is_stored = prediction.source is not None and prediction.source.origin == "stored"
    return _absolute(prediction.name) if is_stored else None


def _absolute(name: str) -> str:
    """The absolute path, or the address itself."""
    return name if name.lower().startswith(("http://", "https://")) else os.path.abspath(name)


def _is_same(path: Path, name: str | Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return os.path.samefile(path, name)
    return False


def _is_cut(text: str) -> bool:
    """Whether a last line without line end is one whose writing was interrupted."""
    if not text.startswith(_START[: len(text)]):
        return False
    with contextlib.suppress(ValueError, RecursionError):
        json.loads(text)
        return False
    return True


def _files_of(row: Any) -> dict[str, str]:
    """The files that a row names; ValueError for a row that is not of a ``PredictionWriter``."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("name", "task")):
        raise ValueError
    if not isinstance(row.get("source", ""), str):
        raise ValueError
    files = {key: row[key] for key in _ENDINGS if key in row}
    for key, name in files.items():
        is_name = isinstance(name, str) and name == os.path.basename(name) and "\\" not in name
        if not is_name or not name.endswith(_ENDINGS[key]) or name == _ENDINGS[key]:
            raise ValueError
    if not files:
        raise ValueError
    return files
