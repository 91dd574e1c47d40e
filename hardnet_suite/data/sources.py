"""Images from whatever holds them: files, folders, patterns, addresses, arrays, videos, cameras."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
from PIL import Image

from hardnet_suite.data.fetching import FetchError, Limits, fetch_bytes, shown
from hardnet_suite.data.files import read_bytes
from hardnet_suite.data.images import IMAGE_SUFFIXES, open_rgb, walk_files
from hardnet_suite.data.in_memory import (
    arrays_of_tensor,
    content_of,
    image_of_array,
    is_file_object,
    is_tensor,
    name_of_file,
    upright,
)
from hardnet_suite.data.mp4 import fragment_frames, shown_frames
from hardnet_suite.data.tar_files import (
    TarMember,
    has_braces,
    is_tar,
    read_image_member,
    tar_members,
    tar_paths,
)
from hardnet_suite.data.video_structure import frames_held, is_all_there
from hardnet_suite.errors import UserError

JSON_LINES = "predictions.jsonl"  # beside drawings; it names them
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".f4v"),
    *(".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".vob", ".ogv", ".mjpg", ".mjpeg", ".mxf", ".divx"),
)
_TAR = ".tar"
# 256 MiB: an uncompressed RGB image of PIL.Image.MAX_IMAGE_PIXELS, beyond which Pillow warns
IMAGE_LIMITS = Limits(size=256 << 20, total=120)
# how playlists and stream descriptions begin: FFmpeg may open the files that they name
_SCRIPTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"v=0", b"<?xml", b"<mpd")
_LONGEST_STEM = 120
_LARGEST_FPS = 1000  # cameras and streams may say 90000, the ticks of their clock
_LOST_FRAMES = 0.05  # of a video's: its header's count is an estimate


class LeftOutWarning(Warning):
    """A source holds images that are not taken."""


@dataclass(frozen=True)
class SourceImage:
    """One image that is opened when it is needed: ``open()`` gives a PIL image, RGB, or a UserError.

    ``name``: of the file, address or frame. ``fps``: frames per second of its video, if it is of one that
    says so. ``path``: of the file that is this image; None of images in memory, in tar files and of frames.
    ``origin``: "stored" in a file or at an address, so that the name stands for it, "memory" or "camera".
    """

    name: str
    open: Callable[[], Image.Image]
    fps: float | None = field(default=None, kw_only=True)
    path: str | None = field(default=None, kw_only=True)
    origin: Literal["stored", "memory", "camera"] = field(default="stored", kw_only=True)

    @property
    def stem(self) -> str:
        """A name for files made of it, see ``stem_of``."""
        return stem_of(self.name)


def stem_of(name: str) -> str:
    """A name for files made of an image: without folder and suffix, with the number of a frame."""
    frame = re.search(r"#(\d{6,})$", name)
    path = name[: frame.start()] if frame else name
    path = unquote(_without_query(path)) if _is_address(path) else path
    stem = Path(path).stem + (f"_{frame[1]}" if frame else "")
    return re.sub(r"[^\w .()+,=@~-]", "_", stem)[-_LONGEST_STEM:].strip(" .") or "image"


def images_of(source: Any, channels: str = "rgb", *, limits: Limits | None = None) -> Iterator[SourceImage]:
    """All images of a source, in order; files of a folder or pattern sorted by name.

    Args:
        source: a path of an image, video, tar file (whose images it stands for) or folder (with its
            subfolders); a pattern with ``*``, ``?`` or ``[``, of tar files also with ``{000..099}`` or
            ``{a,b}``; an http address of an image or video; a PIL image; a NumPy array, uint8, (H, W, 3) RGB,
            (H, W, 4) RGBA or (H, W) grey; a tensor (3, H, W) or (N, 3, H, W), uint8 or float in 0…1; the
            bytes of an image file, or the file, opened in binary mode; the number of a camera, or
            "camera:0"; or a list or iterator of these.
        channels: the order of the channels in arrays and tensors: "rgb", or "bgr" as OpenCV reads images.
        limits: of size, time and redirects for an image at an address; default: ``IMAGE_LIMITS`` (256 MiB,
            120 s). Of a video at an address, ``wait`` limits the time to open it and to read each frame.

    A name of digits alone, such as "0", is a camera unless there is a file or folder of that name.

    In folders and patterns, drawings and masks of an earlier run are skipped: files that a
    ``predictions.jsonl`` beside them names. Tar files of a folder are left out, with a ``LeftOutWarning``.
    Of an animation the first frame is taken. An unreadable member of a list or folder is an image whose
    ``open`` raises; so is the end of a video that breaks off.

    Raises:
        UserError: there is nothing, or nothing that is an image.
        ValueError: an array or tensor of another shape or type, or another order of channels.
    """
    if not isinstance(channels, str) or channels.lower() not in ("rgb", "bgr"):
        raise ValueError(f"expected channels 'rgb' or 'bgr', got {channels!r}")
    channels = channels.lower()
    if isinstance(source, Image.Image):
        yield _in_memory(partial(upright, source))
    elif isinstance(source, np.ndarray):
        yield _in_memory(partial(upright, image_of_array(source, channels)))
    elif isinstance(source, bool):
        raise ValueError(f"expected an image, got {source}")
    elif isinstance(source, int):
        yield from _frames(source, f"camera:{source}")
    elif isinstance(source, str | Path):
        yield from _of_text(_text(source), limits or IMAGE_LIMITS)
    elif is_tensor(source):
        for number, values in enumerate(arrays_of_tensor(source)):
            name = "image" if source.ndim == 3 else f"image_{number}"
            yield _in_memory(partial(upright, image_of_array(values, channels)), name)
    elif isinstance(source, bytes | bytearray | memoryview):
        yield _in_memory(partial(open_rgb, bytes(source), "in memory"))
    elif is_file_object(source):
        path = name_of_file(source)
        if path is not None and _is_video(path):
            raise ValueError(f"expected the path of a video, got the open file {path}")
        opening = partial(open_rgb, content_of(source), path or "in memory")
        yield _in_memory(opening) if path is None else SourceImage(path, opening)
    elif isinstance(source, Sequence | Iterator):
        for number, member in enumerate(source):
            images = images_of(member, channels, limits=limits)
            if _has_no_name(member):
                for image in _or_failure(images, "image"):
                    yield replace(image, name=f"image_{number}{image.name.removeprefix('image')}")
            else:
                yield from _or_failure(images, member)
    else:
        raise ValueError(
            "expected an image, path, array, tensor, bytes, an open file, or a list or iterator of these, "
            f"got a {type(source).__name__}"
        )


def _in_memory(opening: Callable[[], Image.Image], name: str = "image") -> SourceImage:
    return SourceImage(name, opening, origin="memory")


def _has_no_name(source: Any) -> bool:
    """Whether a source is in memory: its images are called "image", or "image_N" of a batch."""
    if is_file_object(source):
        return name_of_file(source) is None
    return isinstance(source, np.ndarray | Image.Image | bytes | bytearray | memoryview) or is_tensor(source)


def count_of(source: Any) -> int | None:
    """How many images a source has, as far as that is known without opening videos and tar files, or None."""
    if isinstance(source, list | tuple):
        counts = [count_of(member) for member in source]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None
    if isinstance(source, str | Path):
        text = _text(source)
        if _is_camera(text) or _is_video(text):
            return None
        if _is_address(text):
            return 1
        if os.path.isdir(text) or _is_pattern(text):
            try:
                files = _files(text)
            except UserError:  # told by images_of
                return None
            return None if any(_is_video(file) or is_tar(file) for file in files) else len(files)
        return None if is_tar(text) else 1
    if is_tensor(source) and source.ndim == 4:
        return len(source)
    endless = isinstance(source, int | Iterator) and not is_file_object(source)
    return None if endless else 1


def expanded(sources: Sequence[str]) -> list[str]:
    """Paths and addresses with folders and patterns as their files, listed once.

    Raises:
        UserError: the only source is a folder or pattern without images, or of tar files that are missing.
    """
    files: list[str] = []
    for source in sources:
        text = _text(source)
        is_several = not (_is_address(text) or _is_camera(text)) and (
            os.path.isdir(text) or _is_pattern(text)
        )
        try:
            found = _files(text) if is_several else []
        except UserError:
            if len(sources) == 1:
                raise
            found = []  # images_of tells of it in its place
        if is_several and not found and len(sources) == 1:
            raise UserError(_no_images(text))
        files += found or [source]
    return files


def _no_images(text: str) -> str:
    if os.path.isdir(text) and (tars := walk_files(text, (_TAR,))):
        return f"no images in {text} but its tar files: name them, as {tars[0]}{_all_of(text, tars)}"
    return f"no images in {text} (drawings of an earlier run do not count)"


def _all_of(folder: str, tars: Sequence[object]) -> str:
    return f", or {os.path.join(folder, '**', '*.tar')} for all" if len(tars) > 1 else ""


def require_some(sources: Sequence[str]) -> None:
    """Checks that one of several sources is there, without opening it; cameras and addresses count as there.

    Raises:
        UserError: none is; the line is about the first.
    """
    absences = [_absence(_text(source)) for source in sources]
    if absences and all(absences):
        raise UserError(str(absences[0]))


def _absence(text: str) -> str | None:
    """Why a source is not there; None where it may be."""
    if not text or _is_address(text) or "://" in text or _is_camera(text) or os.path.lexists(text):
        return None
    if _is_pattern(text):
        try:
            return None if _files(text) else f"no images in {text}"
        except UserError as error:
            return str(error)
    return f"no video {text}" if _is_video(text) else f"cannot open {text}: No such file or directory"


def is_single(source: Any) -> bool:
    """Whether the source names one image, so that an error in it is an error of the whole call."""
    if isinstance(source, str | Path) and _is_address(str(source)):
        return not _is_video(str(source))
    return count_of(source) == 1 and not (
        isinstance(source, str | Path) and (os.path.isdir(_text(source)) or _is_pattern(_text(source)))
    )


def is_one_video(source: Any) -> bool:
    """Whether the source names one video or camera."""
    if isinstance(source, str | Path):
        text = _text(source)
        is_one = _is_address(text) or not (os.path.isdir(text) or _is_pattern(text))
        return _is_camera(text) or (_is_video(text) and is_one)
    return is_camera(source) and not isinstance(source, list | tuple)


def is_live(source: Any) -> bool:
    """Whether the next image of the source, or of one of the list, may still be on its way.

    That is so for cameras, iterators and videos at an address.
    """
    if isinstance(source, list | tuple):
        return any(map(is_live, source))
    if isinstance(source, str | Path) and _is_address(str(source)):
        return _is_video(str(source))
    return is_camera(source) or (isinstance(source, Iterator) and not is_file_object(source))


def is_camera(source: Any) -> bool:
    """Whether the source, or one of the list, is a camera: it never ends."""
    if isinstance(source, list | tuple):
        return any(map(is_camera, source))
    if isinstance(source, str):
        return _is_camera(_text(source))
    return isinstance(source, int) and not isinstance(source, bool)


# what opens an image is a plain function of plain values, so that a prediction can be pickled


class _Fetched:
    """An image at an address; drawn later, it need not be fetched again."""

    def __init__(self, url: str, limits: Limits):
        self.url, self.limits = url, limits
        self.body: bytes | None = None

    def __call__(self) -> Image.Image:
        if self.body is None:
            try:
                self.body = fetch_bytes(self.url, self.limits)
            except FetchError as error:
                raise UserError(f"cannot fetch {shown(self.url)}: {error}") from None
        return open_rgb(self.body, shown(self.url))


def _text(source: str | Path) -> str:
    return os.path.expanduser(str(source))


def _of_text(text: str, limits: Limits) -> Iterator[SourceImage]:
    if not text:
        raise UserError("expected an image, got an empty name")
    if _is_address(text):
        if _is_video(text):
            yield from _frames_at(text, limits)
        else:
            yield SourceImage(shown(text), _Fetched(text, limits))
    elif re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        raise UserError(f"cannot fetch {shown(text)}: only http and https addresses are")
    elif _is_camera(text):
        number = int(text.removeprefix("camera:"))
        yield from _frames(number, f"camera:{number}")
    elif os.path.isdir(text) or _is_pattern(text):
        files = _files(text)
        if not files:
            raise UserError(_no_images(text))
        for path in files:
            yield from _or_failure(_of_file(path), path)
    else:
        yield from _of_file(text)


def _of_file(path: str) -> Iterator[SourceImage]:
    if _is_video(path):
        if not os.path.isfile(path):
            raise UserError(f"no video {path}")
        _refuse_script(path)
        # from the root: FFmpeg takes "concat:a.mp4" for a protocol
        yield from _frames(os.path.abspath(path), path, _backend())
    elif is_tar(path):
        yield from _of_tar(path)
    else:
        yield SourceImage(path, partial(open_rgb, path), path=path)


def _of_tar(path: str) -> Iterator[SourceImage]:
    """The images of a tar file, told by their suffixes."""
    names: set[str] = set()
    for member in tar_members(path):
        if not member.name.lower().endswith(IMAGE_SUFFIXES):
            continue
        if member.name in names:
            raise UserError(f"{path} holds two files {member.name}")
        names.add(member.name)
        yield SourceImage(f"{path}/{member.name}", _Member(path, member))
    if not names:
        raise UserError(f"{path}: no image in it")


class _Member:
    """An image in a tar file."""

    def __init__(self, path: str, member: TarMember):
        self.path, self.member = path, member

    def __call__(self) -> Image.Image:
        content = read_image_member(self.path, self.member)
        return open_rgb(content, f"{self.path}/{self.member.name}")


def _refuse_script(path: str) -> None:
    try:
        with open(path, "rb") as stream:
            start = stream.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror}") from None
    if start.lower().startswith(_SCRIPTS):
        raise UserError(f"{path} is a playlist that names other files, not a video; replace the file")


def _frames_at(url: str, limits: Limits) -> Iterator[SourceImage]:
    """The frames of a video at an address.

    FFmpeg reads it as it comes, so that live streams play. Over http it opens no local file and no protocol
    but http and https, whatever the server sends or redirects to, save for ports that a stream description
    asks it to listen on.
    """
    import cv2

    wait = round(1000 * limits.wait)
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
    return _frames(url, shown(url), _backend(), timeouts)


def _backend() -> int:
    """FFmpeg, where OpenCV has it: other readers print parts of a damaged file on the terminal."""
    import cv2

    return cv2.CAP_FFMPEG if cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG) else cv2.CAP_ANY


def _or_failure(images: Iterator[SourceImage], source: Any) -> Iterator[SourceImage]:
    """The same, but an error among them becomes an image that cannot be opened, so that others go on."""
    try:
        yield from images
    except UserError as error:
        name = str(source)
        yield _failure(shown(name) if "://" in name else name, error)


def _failure(name: str, error: UserError) -> SourceImage:
    return SourceImage(name, partial(_raise, error))


def _raise(error: UserError) -> Image.Image:
    raise error


def _is_address(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def _without_query(address: str) -> str:
    return re.split("[?#]", address, maxsplit=1)[0]


def _is_video(text: str) -> bool:
    path = _without_query(text) if _is_address(text) else text
    return path.lower().endswith(VIDEO_SUFFIXES)


def _is_pattern(text: str) -> bool:
    return not os.path.exists(text) and (glob.has_magic(text) or (is_tar(text) and has_braces(text)))


def _is_camera(text: str) -> bool:
    number = text.removeprefix("camera:")
    return re.fullmatch("[0-9]{1,9}", number) is not None and (number != text or not os.path.lexists(text))


def _files(text: str) -> list[str]:
    """Images and videos of a folder, or whatever a pattern finds, sorted, without earlier drawings.

    Tar files are in the order of their pattern.

    Raises:
        UserError: a pattern names tar files that are not there.
    """
    if os.path.isdir(text):
        found = [str(path) for path in walk_files(text, (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, _TAR))]
        tars = [path for path in found if path.lower().endswith(_TAR)]
        found = [path for path in found if not path.lower().endswith(_TAR)]
        if tars and found:
            files = "1 tar file" if len(tars) == 1 else f"{len(tars)} tar files"
            warnings.warn(
                f"{files} in {text} left out: name them to take their images, as {tars[0]}"
                f"{_all_of(text, tars)}",
                LeftOutWarning,
                stacklevel=2,
            )
    elif is_tar(text):
        return tar_paths(text)
    else:
        found = [path for path in glob.glob(text, recursive=True) if os.path.isfile(path)]
    drawn = {folder: {JSON_LINES, *drawn_in(folder)} for folder in {os.path.dirname(path) for path in found}}
    return sorted(path for path in found if os.path.basename(path) not in drawn[os.path.dirname(path)])


def drawn_in(folder: str | Path) -> set[str]:
    """The names of the drawings and masks in a folder that its ``predictions.jsonl`` tells of."""
    drawn = set()
    with contextlib.suppress(OSError):
        for line in read_bytes(Path(folder, JSON_LINES)).decode("utf-8", "replace").splitlines():
            with contextlib.suppress(ValueError, AttributeError, RecursionError):
                row = json.loads(line)
                drawn |= {name for key in ("drawing", "mask") if isinstance(name := row.get(key), str)}
    return drawn


def _frames(source: int | str, name: str, *options: Any) -> Iterator[SourceImage]:
    """The frames of a video or camera, one at a time, until it ends; ``options`` are of ``VideoCapture``."""
    import cv2

    capture = _capture(source, *options)
    try:
        if not capture.isOpened():
            if isinstance(source, int):
                raise UserError(f"cannot open {name}: no camera has that number, or another program uses it")
            raise UserError(f"cannot open {name}: it is damaged, or not a video that OpenCV reads")
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate if 0 < rate <= _LARGEST_FPS else None
        origin: Literal["stored", "camera"] = "camera" if isinstance(source, int) else "stored"
        number, until, gap = 0, 0.0, 0.0  # in seconds
        while True:
            there, frame = capture.read()
            if not there:
                break
            position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            gap, until = max(gap, position - until), max(until, position)
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and frame.shape[0] * frame.shape[1] > 2 * limit:
                size = "×".join(map(str, frame.shape[1::-1]))
                raise UserError(f"{name} has frames of {size} pixels, beyond Pillow's limit of {2 * limit}")
            image = Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))
            frame_name, opening = f"{name}#{number:06d}", partial(upright, image)
            yield SourceImage(frame_name, opening, fps=fps, origin=origin)
            number += 1
        if not number:
            raise UserError(f"{name} has not a single frame that can be read")
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        promised = _frames_to_show(source, promised, number, gap * rate, promised - until * rate)
        if _is_short(number, promised):
            broken = UserError(f"{name} breaks off after {number} of {promised:.0f} frames")
            yield _failure(f"{name}#{number:06d}", broken)
    finally:
        capture.release()


def _capture(source: int | str, *options: Any) -> Any:
    """A ``cv2.VideoCapture``, which reads on to the next frame however much sound lies before it.

    By itself OpenCV takes 4096 packets of other streams for the end, which are 95 s of sound: between two
    frames, or after the last ones, of which the decoder holds some back until it knows that no more follow.
    """
    import cv2

    os.environ.setdefault("OPENCV_FFMPEG_READ_ATTEMPTS", str(2**31 - 1))
    return cv2.VideoCapture(source, *options)


def _is_short(number: float, promised: float) -> bool:
    """Whether more frames are lost than an estimate is off."""
    return promised * (1 - _LOST_FRAMES) > number + 1


def _frames_to_show(source: int | str, count: float, number: int, gap: float, rest: float) -> float:
    """How many frames a video should have shown.

    The header of an MP4 counts what its edit list hides, too. Of other formats the count may be the duration
    times a rate: sound may go on after the frames, and their rate may vary. What the structure of the file
    says comes first, then. Where it says nothing, frames without a gap over the whole duration are those that
    the file holds.

    Args:
        source: the file or address.
        count: of the header.
        number: of the frames shown.
        gap: the longest time between two of them, in frames of the rate.
        rest: the time from the last one to the end, in the same unit.
    """
    path = source if isinstance(source, str) and not _is_address(source) else None
    in_fragments = None if path is None else fragment_frames(path)
    if in_fragments is not None:  # where a file is cut, the header counts some of them alone
        return in_fragments
    if not _is_short(number, count):
        return count
    if path is not None:
        for held in (shown_frames(path, int(count)), frames_held(path)):
            if held is not None:
                return held
        if is_all_there(path):
            rest = 0  # of sound alone
    if _is_short(count - max(gap, rest), count):
        return count
    return number if path is None else _packets(path)


def _packets(path: str) -> int:
    """How many frames a video holds, whether they can be decoded or not."""
    import cv2

    capture = _capture(path, _backend(), [cv2.CAP_PROP_FORMAT, -1])
    try:
        return sum(1 for _ in iter(capture.grab, False))
    finally:
        capture.release()
