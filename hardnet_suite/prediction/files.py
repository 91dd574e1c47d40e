"""One file per call: the drawing of an image, a video of drawings, or a line of JSON per image."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import require_replaceable, temporary_folder, whole_file, writing
from hardnet_suite.prediction.writer import failure_line
from hardnet_suite.visualization.canvas import is_drawing, save_drawing

if TYPE_CHECKING:
    from hardnet_suite.prediction.result import Prediction

DRAWING_SUFFIXES = (".jpg", ".jpeg", ".png")
VIDEO_SUFFIX = ".mp4"
LINES_SUFFIX = ".jsonl"
_USUAL_FPS = 30.0
_LONGEST_LINE = 64 << 20  # bytes
_MARK = b"hardnet-suite prediction (replaced by the next)"
# MP4's box of free space, which players skip
_MARK_BOX = struct.pack(">I4s", 8 + len(_MARK), b"free") + _MARK


def names_file(path: str | Path) -> bool:
    """Whether a place for predictions is a file by its suffix: .jpg, .jpeg or .png, and no folder yet."""
    return Path(path).suffix.lower() in DRAWING_SUFFIXES and not os.path.isdir(path)


def names_video(path: str | Path) -> bool:
    """Whether a place for predictions is a video by its suffix: .mp4, and no folder yet."""
    return Path(path).suffix.lower() == VIDEO_SUFFIX and not os.path.isdir(path)


def names_lines(path: str | Path) -> bool:
    """Whether a place for predictions is a file of lines by its suffix: .jsonl, and no folder yet."""
    return Path(path).suffix.lower() == LINES_SUFFIX and not os.path.isdir(path)


class DrawingFile:
    """Writes the drawing of a prediction into a file.

    Args:
        path: .jpg, .jpeg or .png; an earlier drawing is replaced, nothing else is.

    Raises:
        UserError: something else is there.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        require_replaceable(self.path, is_drawing, writer="prediction", option="file")

    def create(self) -> None:
        """Creates the folder where it is missing.

        Raises:
            UserError: it cannot be created.
        """
        _create_folder(self.path)

    def write(self, prediction: Prediction) -> Path:
        """Writes the drawing; its path.

        Raises:
            UserError: the file cannot be written, or is the image itself.
        """
        _require_another_file(self.path, prediction)
        save_drawing(self.path, np.array(prediction.draw()))
        return self.path


class VideoFile:
    """Writes drawings as the frames of a video: MPEG-4 at the frame rate of the source, 30 where it has none.

    The video takes its place when it is closed. All frames have the size of the first; a side of odd length
    loses its last pixel, as the codec requires.

    Args:
        path: .mp4; an earlier video of predictions is replaced, nothing else is.

    Raises:
        UserError: something else is there, or this OpenCV cannot write videos.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._stack = ExitStack()
        self._temporary: Path | None = None
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._is_recording = False
        require_replaceable(self.path, _is_video_of_predictions, writer="prediction", option="file")

    def create(self) -> None:
        """Creates the folder where it is missing.

        Raises:
            UserError: it cannot be created.
        """
        _create_folder(self.path)

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Closes the video; after an error, without it. A camera's recording ends by an interruption."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        self.close(complete=kind is None or (self._is_recording and interrupted))

    def write(self, prediction: Prediction) -> Path:
        """Adds a frame; the path of the video.

        Raises:
            UserError: the file cannot be written or is the video itself, or the frame has another size.
        """
        return self.add(prediction, self.draw(prediction))

    def draw(self, prediction: Prediction) -> np.ndarray:
        """The frame of a prediction, (H, W, 3) uint8 RGB; in any thread."""
        return np.array(prediction.draw(legend=False))

    def add(self, prediction: Prediction, frame: np.ndarray) -> Path:
        """``write`` of a prediction whose frame is drawn."""
        size = frame.shape[1], frame.shape[0]
        if self._writer is None:
            _require_another_file(self.path, prediction)
            self._size = size
            source = prediction.source
            self._is_recording = source is not None and source.origin == "camera"
            self._open(size, source.fps if source else None)
        if size != self._size and self._size is not None:
            was, now = (f"{width}×{height} pixels" for width, height in (self._size, size))
            raise UserError(f"{prediction.name} has {now}, the frames of {self.path} have {was}")
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))
        return self.path

    def _open(self, size: tuple[int, int], fps: float | None) -> None:
        import cv2

        self.create()
        with _write_errors(self.path):
            folder = self._stack.enter_context(temporary_folder(self.path))
        self._temporary = folder / "video.mp4"  # OpenCV takes the format from the suffix
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(str(self._temporary), cv2.CAP_FFMPEG, codec, fps or _USUAL_FPS, size)
        if not self._writer.isOpened():
            self.close(complete=False)
            raise UserError(
                f"cannot write {self.path}: this OpenCV writes no MP4 of {size[0]}×{size[1]} pixels"
            )

    def close(self, *, complete: bool = True) -> None:
        """Ends the video; without a frame, or if it is not complete, the place stays as it was.

        Raises:
            UserError: the file cannot be written.
        """
        with self._stack:
            if self._writer is None:
                return
            self._writer.release()
            self._writer = None
            if complete and self._temporary is not None:
                with _write_errors(self.path):
                    with self._temporary.open("ab") as stream:
                        stream.write(_MARK_BOX)
                    os.replace(self._temporary, self.path)


class StagedLine(NamedTuple):
    """A line that is written, but not yet in its place.

    Attributes:
        file: path of the hidden file that holds it.
        start: where it begins there, in bytes.
        size: its bytes, with the line end.
    """

    file: str
    start: int
    size: int


class LineStage:
    """Writes lines into a hidden file beside the place of a ``LinesFile``, in any thread or process.

    Args:
        path: of the ``LinesFile``.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        self._stack = ExitStack()
        self._stream: BinaryIO | None = None
        self._lock = Lock()
        self._file = ""
        self._end = 0

    def add(self, prediction: Prediction) -> StagedLine:
        """Writes the line of a prediction.

        Raises:
            UserError: scores or boxes are not finite, or the file cannot be written.
        """
        return self._add(prediction.to_json())

    def add_failure(self, name: str, reason: str) -> StagedLine:
        """Writes the line of an image that cannot be read, ``failure_line``.

        Raises:
            UserError: the file cannot be written.
        """
        return self._add(failure_line(name, reason))

    def _add(self, line: str) -> StagedLine:
        content = f"{line}\n".encode()
        with self._lock, _write_errors(self._path):
            if self._stream is None:
                folder = self._stack.enter_context(temporary_folder(self._path))
                self._stream = self._stack.enter_context((folder / "lines").open("xb"))
                self._file = self._stream.name
            self._stream.write(content)
            staged = StagedLine(self._file, self._end, len(content))
            self._end += len(content)
        return staged

    def flush(self) -> None:
        """Lets other processes read the lines.

        Raises:
            UserError: the file cannot be written.
        """
        with _write_errors(self._path):
            if self._stream is not None:
                self._stream.flush()
                os.fsync(self._stream.fileno())  # for another machine on a shared file system

    def discard(self) -> None:
        """Removes the hidden file."""
        with suppress(OSError):  # of a full disk, which was told
            self._stack.close()
        self._stream = None


class LinesFile:
    """Writes one line of JSON per image into a file: ``Prediction.to_json()``; nothing is drawn.

    An image that cannot be read has a line, too: ``failure_line``. The file takes its place as a whole when
    it is closed.

    Args:
        path: .jsonl; an earlier file of predictions without drawings is replaced, nothing else is.
        recording: Whether the images come from a camera, which only an interruption ends: the lines up to
            then take their place.

    Raises:
        UserError: something else is there.
    """

    def __init__(self, path: str | Path, *, recording: bool = False):
        self.path = Path(path)
        self.stage = LineStage(self.path)
        self._is_recording = recording
        self._placed: list[StagedLine] = []
        require_replaceable(self.path, _is_lines_of_predictions, writer="prediction", option="file")

    def create(self) -> None:
        """Creates the folder where it is missing.

        Raises:
            UserError: it cannot be created.
        """
        _create_folder(self.path)

    def __enter__(self) -> LinesFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Closes the file; after an error, its place stays as it was. A recording ends by an interruption."""
        is_interrupted = kind is not None and issubclass(kind, KeyboardInterrupt | SystemExit)
        try:
            if kind is None or (self._is_recording and is_interrupted and self._placed):
                self.place_all(self._placed)
        finally:
            self.stage.discard()

    def write(self, prediction: Prediction) -> Path:
        """Adds the line of a prediction; the path of the file.

        Raises:
            UserError: scores or boxes are not finite, or the file cannot be written.
        """
        self.create()
        return self.place(self.stage.add(prediction))

    def write_failure(self, name: str, reason: str) -> Path:
        """Adds the line of an image that cannot be read; the path of the file.

        Raises:
            UserError: the file cannot be written.
        """
        self.create()
        return self.place(self.stage.add_failure(name, reason))

    def place(self, staged: StagedLine) -> Path:
        """Adds a line of the ``stage``; the path of the file."""
        self._placed.append(staged)
        return self.path

    def place_all(self, staged: Iterable[StagedLine]) -> None:
        """Writes the file: the lines of this process and others, in the order given.

        Raises:
            UserError: a file cannot be read or written.
        """
        self.stage.flush()
        streams: dict[str, BinaryIO] = {}
        with ExitStack() as stack, _write_errors(self.path):
            temporary = stack.enter_context(whole_file(self.path))
            with temporary.open("xb") as target:
                for file, start, size in staged:
                    if file not in streams:
                        streams[file] = stack.enter_context(open(file, "rb"))
                    streams[file].seek(start)
                    content = streams[file].read(size)
                    if len(content) != size:
                        raise OSError(f"{file} was cut short")
                    target.write(content)
                target.flush()
                os.fsync(target.fileno())


def _is_lines_of_predictions(path: Path) -> bool:
    """Whether the first line is of a ``LinesFile``; a line of a folder's names its drawing."""
    with path.open("rb") as stream:
        start = stream.readline(_LONGEST_LINE)
    if not start:
        return True
    if not start.startswith(b'{"name": '):
        return False
    try:
        row = json.loads(start)
    except (ValueError, RecursionError):
        return False
    if row.keys() == {"name", "error"}:
        return True
    return {"name", "task", "size", "labels", "scores"} <= row.keys() and "drawing" not in row


def _create_folder(path: Path) -> None:
    with _write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    try:
        with writing(path):
            yield
    except WriteError as error:
        raise UserError(explain(error)) from None


def _is_video_of_predictions(path: Path) -> bool:
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - len(_MARK_BOX)))
        return stream.read() == _MARK_BOX


def _require_another_file(path: Path, prediction: Prediction) -> None:
    name = prediction.name.partition("#")[0] if not os.path.lexists(prediction.name) else prediction.name
    if os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name):
        raise UserError(f"{path} is the image itself: choose another file for its drawing")
