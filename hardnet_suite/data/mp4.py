"""What the header of an MP4 or QuickTime file says of its frames (ISO/IEC 14496-12)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MOST = 1 << 24  # frames, whose times are held in memory


def shown_frames(path: str | Path, count: int) -> int | None:
    """How many of the frames of a video are shown: an edit list may hide some, as of a clip cut losslessly.

    Args:
        path: of the file.
        count: of the frames that the file holds.

    Returns:
        None where that is not known: another format, a damaged header, or one without the frames' times, as
        of fragments.
    """
    if not 0 < count <= _MOST:
        return None
    try:
        with open(path, "rb") as stream:
            movie = _movie(stream)
        for track in _pictures(movie):
            times = _times(_inside(track, b"mdia", b"minf", b"stbl"), count)
            if times is not None:
                return _shown(times, movie, track)
    except (OSError, struct.error, ValueError, LookupError):
        pass
    return None


def fragment_frames(path: str | Path) -> int | None:
    """How many frames of its first picture a video in fragments announces.

    FFmpeg shows all of them, whatever an edit list hides. The header of a fragment comes before its frames,
    so that those of a file that is cut short are told.

    Returns:
        None where that is not known: another format, a damaged header, or no fragments.
    """
    try:
        with open(path, "rb") as stream:
            movie = _movie(stream)
            if b"mvex" not in dict(_boxes(movie)):
                return None
            track = next(_pictures(movie))
            header = _inside(track, b"tkhd")
            number = _number(header, 20 if header[0] == 1 else 12)
            repeats, _ = _pairs(_inside(track, b"mdia", b"minf", b"stbl", b"stts"))
            return int(repeats.sum()) + sum(_in_fragment(box, number) for box in _fragments(stream))
    except (OSError, struct.error, ValueError, LookupError, StopIteration):
        return None


def _pictures(movie: memoryview) -> Iterator[memoryview]:
    """The video tracks."""
    for kind, track in _boxes(movie):
        if kind == b"trak" and bytes(_inside(track, b"mdia", b"hdlr")[8:12]) == b"vide":
            yield track


def _in_fragment(fragment: memoryview, number: int) -> int:
    """How many frames of the track of that number a fragment has."""
    return sum(
        _number(run, 4)
        for kind, part in _boxes(fragment)
        if kind == b"traf" and _number(_inside(part, b"tfhd"), 4) == number
        for inner, run in _boxes(part)
        if inner == b"trun"
    )


def _shown(times: np.ndarray, movie: memoryview, track: memoryview) -> int:
    """How many of the frames at some times, in units of the track, its edit list shows."""
    children = dict(_boxes(track))
    edits = dict(_boxes(children[b"edts"])).get(b"elst") if b"edts" in children else None
    if edits is None:
        return len(times)
    scale = _time_scale(_inside(track, b"mdia", b"mdhd")) / _time_scale(_inside(movie, b"mvhd"))
    entry = ">Qqi" if edits[0] == 1 else ">Iii"  # version 1 has 64 bits
    shown = 0
    for index in range(_number(edits, 4)):
        duration, start, _ = struct.unpack_from(entry, edits, 8 + index * struct.calcsize(entry))
        if start >= 0:  # else a pause
            end = start + duration * scale if duration else np.inf  # 0: to the end
            shown += int(((times >= start) & (times < end)).sum())
    return shown


def _times(table: memoryview, count: int) -> np.ndarray | None:
    """(count,) when the frames of a track are shown, without its edit list; None of another number."""
    boxes = dict(_boxes(table))
    repeats, steps = _pairs(boxes[b"stts"])
    if repeats.sum() != count:
        return None
    times = np.cumsum(np.repeat(steps, repeats)) - np.repeat(steps, repeats)  # of decoding
    if b"ctts" in boxes:
        repeats, offsets = _pairs(boxes[b"ctts"])
        if repeats.sum() != count:
            return None
        times += np.repeat(offsets, repeats)
    return times


def _pairs(box: memoryview) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a table: how often, and which value."""
    rows = np.frombuffer(box, ">i4", 2 * _number(box, 4), 8).reshape(-1, 2).astype(np.int64)
    if (rows[:, 0] < 0).any():
        raise ValueError("a negative number of frames")
    return rows[:, 0], rows[:, 1]


def _time_scale(box: memoryview) -> int:
    """Units per second of a movie or track."""
    scale = _number(box, 20 if box[0] == 1 else 12)
    if not scale:
        raise ValueError("a time scale of 0")
    return scale


def _number(box: memoryview, start: int) -> int:
    return struct.unpack_from(">I", box, start)[0]


def _inside(content: memoryview, *kinds: bytes) -> memoryview:
    """The box of a kind, in it that of the next kind, and so on; KeyError where there is none."""
    for kind in kinds:
        content = dict(_boxes(content))[kind]
    return content


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The boxes side by side in some bytes: (kind, content)."""
    start = 0
    while start + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        if not 8 <= size <= len(content) - start:
            raise ValueError(f"a box of {size} bytes")
        yield kind, content[start + 8 : start + size]
        start += size


def _movie(stream: BinaryIO) -> memoryview:
    """The box that describes the tracks; it may come after their frames."""
    for kind, size in _top(stream):
        if kind == b"moov":
            return memoryview(stream.read(size))
    raise ValueError("no movie")


def _fragments(stream: BinaryIO) -> Iterator[memoryview]:
    """The boxes that describe the fragments."""
    for kind, size in _top(stream):
        if kind == b"moof":
            yield memoryview(stream.read(size))


def _top(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The whole boxes of a file, each with the size of its content, which the stream is at."""
    end, start = stream.seek(0, os.SEEK_END), 0
    while start < end:
        stream.seek(start)
        content = stream.read(16).ljust(16, b"\0")
        size, kind = struct.unpack_from(">I4s", content)
        head = 8
        if size == 1:
            head, size = 16, struct.unpack_from(">Q", content, 8)[0]
        size = size or end - start  # 0: to the end
        if not head <= size <= end - start:
            return
        stream.seek(start + head)
        yield kind, size - head
        start += size
