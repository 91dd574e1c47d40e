"""One file per call: the drawing of an image, or a video of drawings."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardnet_suite.data.sources import is_camera
from hardnet_suite.errors import UserError, WriteError
from hardnet_suite.failures import explain
from hardnet_suite.outputs import require_replaceable, temporary_folder, writing
from hardnet_suite.visualization.canvas import is_drawing, save_drawing

if TYPE_CHECKING:
    from hardnet_suite.prediction.result import Prediction

DRAWING_SUFFIXES = (".jpg", ".jpeg", ".png")
VIDEO_SUFFIX = ".mp4"
_USUAL_FPS = 30.0
_MARK = b"hardnet-suite prediction (replaced by the next)"
# MP4's box of free space, which players skip
_MARK_BOX = struct.pack(">I4s", 8 + len(_MARK), b"free") + _MARK


def names_file(path: str | Path) -> bool:
    """Whether a place for predictions is a file by its suffix: .jpg, .jpeg or .png, and no folder yet."""
    return Path(path).suffix.lower() in DRAWING_SUFFIXES and not os.path.isdir(path)


def names_video(path: str | Path) -> bool:
    """Whether a place for predictions is a video by its suffix: .mp4, and no folder yet."""
    return Path(path).suffix.lower() == VIDEO_SUFFIX and not os.path.isdir(path)


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
            self._is_recording = is_camera(prediction.name.partition("#")[0])
            self._open(size, prediction.source.fps if prediction.source else None)
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
