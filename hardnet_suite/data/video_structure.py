"""How many frames a video file holds by its structure, where its header only says how long it lasts.

That is as long as its longest stream: sound, subtitles or a second picture go on where the frames have ended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# Matroska and WebM (RFC 9559): IDs of elements, with their length markers
_EBML, _SEGMENT, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
_TRACK, _TRACK_NUMBER, _TRACK_TYPE, _CODEC = 0xAE, 0xD7, 0x83, 0x86
_GROUP, _BLOCK, _SIMPLE_BLOCK = 0xA0, 0xA1, 0xA3
_EVERYWHERE = (0xEC, 0xBF)  # Void, CRC-32
# SeekHead, Info, Cues, Attachments, Chapters, Tags
_IN_SEGMENT = (0x114D9B74, 0x1549A966, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367)
_IN_CLUSTER = (0xE7, 0xA7, 0xAB, 0x5854, 0xAF)  # Timestamp, Position, PrevSize, SilentTracks, EncryptedBlock
_VIDEO = b"\1"  # a track's type
_LACED = 0x06  # of a block's flags: several frames in one
_TAKEN = 64  # bytes of a block that are looked at: its header and the first of the frame

_FLV_VIDEO, _FLV_TAGS = 9, (8, 9, 18)  # sound, picture, data
_FLV_INFO = 5  # a kind of frame that is a command
_FLV_PACKETS = {7: 1, 12: 1}  # H.264 and HEVC: the type of packet that holds a frame

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")  # File Properties

_AVI_LIST, _AVI_INDEX, _AVI_ENTRY = b"LIST", b"idx1", 16  # bytes of an entry

_TS_PACKETS = ((0, 188), (4, 192))  # where the first one begins, and their length: .ts, .m2ts


def frames_held(path: str | Path) -> int | None:
    """How many frames of its first picture a Matroska, WebM, Flash or AVI video holds.

    Returns:
        None where the file is cut short or damaged, or of another format.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(12)
            stream.seek(0)
            for sign, count in _COUNTS.items():
                if re.match(sign, start, re.DOTALL):
                    return count(stream)
    except (OSError, ValueError, LookupError):
        pass
    return None


def is_all_there(path: str | Path) -> bool:
    """Whether nothing says that a video file should be longer than it is.

    The duration of MPEG streams and of Ogg is that of the last packets in the file, whichever these are.
    Windows Media says how many bytes the file has.
    """
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
            size = stream.seek(0, os.SEEK_END)
    except OSError:
        return False
    if head.startswith(_ASF_HEADER):
        at = head.find(_ASF_FILE)
        return at > 0 and 0 < int.from_bytes(head[at + 40 : at + 48], "little") <= size
    is_transport = any(
        len(head) > start + length and head[start] == head[start + length] == 0x47
        for start, length in _TS_PACKETS
    )
    return is_transport or head.startswith((b"\0\0\1\xba", b"OggS"))


def _in_matroska(stream: BinaryIO) -> int:
    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    track, count = None, 0
    for kind, stop in _elements(stream, end, (_EBML, _SEGMENT)):
        if kind == _EBML:
            continue
        for inner, inner_stop in _elements(stream, stop, (_TRACKS, _CLUSTER, *_IN_SEGMENT)):
            if inner == _TRACKS and track is None:
                track = _first_picture(stream, inner_stop)
            elif inner == _CLUSTER:
                count += _in_cluster(stream, inner_stop, *(track or (None, b"")))
    if track is None:
        raise ValueError("no picture")
    return count


def _first_picture(stream: BinaryIO, end: int) -> tuple[int, bytes]:
    """The number of the first video track, and its codec."""
    for kind, stop in _elements(stream, end):
        if kind != _TRACK:
            continue
        entries = {
            inner: stream.read(inner_stop - stream.tell())
            for inner, inner_stop in _elements(stream, stop)
            if inner in (_TRACK_NUMBER, _TRACK_TYPE, _CODEC)
        }
        if entries.get(_TRACK_TYPE) == _VIDEO:
            return int.from_bytes(entries[_TRACK_NUMBER], "big"), entries.get(_CODEC, b"")
    raise ValueError("no picture")


def _in_cluster(stream: BinaryIO, end: int, track: int | None, codec: bytes) -> int:
    count = 0
    for kind, stop in _elements(stream, end, (_GROUP, _SIMPLE_BLOCK, *_IN_CLUSTER)):
        if kind == _SIMPLE_BLOCK:
            count += _is_shown(stream, stop, track, codec)
        elif kind == _GROUP:
            for inner, inner_stop in _elements(stream, stop):
                count += inner == _BLOCK and _is_shown(stream, inner_stop, track, codec)
    return count


def _is_shown(stream: BinaryIO, stop: int, track: int | None, codec: bytes) -> bool:
    """Whether a block is a frame of that track; VP8 has some that only others are predicted from."""
    content = stream.read(min(stop - stream.tell(), _TAKEN))
    number, at = _variable(content, 0)
    if number != track:
        return False
    if content[at + 2] & _LACED:
        raise ValueError("laced frames")
    return not codec.startswith(b"V_VP8") or bool(content[at + 3] & 0x10)


def _elements(stream: BinaryIO, end: int, known: tuple[int, ...] | None = None) -> Iterator[tuple[int, int]]:
    """The elements from where the stream is up to a place: (ID, place of their end).

    Args:
        stream: which may be moved within an element, before the next one is taken.
        end: of the element that they are in.
        known: the IDs that may be there; default: any.

    Raises:
        ValueError: an element of another kind, of unknown size, or beyond the end.
    """
    while (start := stream.tell()) < end:
        head = stream.read(12)
        _, at = _variable(head, 0)
        kind = int.from_bytes(head[:at], "big")
        size, content = _variable(head, at)
        stop = start + content + size
        if (known is not None and kind not in (*known, *_EVERYWHERE)) or stop > end:
            raise ValueError(f"an element {kind:x} of {size} bytes")
        stream.seek(start + content)
        yield kind, stop
        stream.seek(stop)


def _variable(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it; IndexError where the bytes end before.

    Raises:
        ValueError: it has no length, or is the one for unknown sizes.
    """
    length = 9 - content[at].bit_length()
    if length > 8 or at + length > len(content):
        raise ValueError("no number")
    number = int.from_bytes(content[at : at + length], "big") - (1 << 7 * length)
    if number == (1 << 7 * length) - 1:
        raise ValueError("a size that is not known")
    return number, at + length


def _in_flash(stream: BinaryIO) -> int:
    end = stream.seek(0, os.SEEK_END)
    start, count = int.from_bytes(_at(stream, 5, 4), "big") + 4, 0
    if not 13 <= start <= end:
        raise ValueError("no header")
    while start < end:
        head = _at(stream, start, 13)
        size = int.from_bytes(head[1:4], "big")
        start += 11 + size + 4
        if head[0] not in _FLV_TAGS or start > end:
            raise ValueError(f"a tag of {size} bytes")
        if head[0] == _FLV_VIDEO and size > 1 and head[11] & 0x80 == 0:
            kind, codec = head[11] >> 4, head[11] & 0x0F
            count += kind != _FLV_INFO and head[12] == _FLV_PACKETS.get(codec, head[12])
        elif head[0] == _FLV_VIDEO:  # of codecs that are named by four letters
            raise ValueError("an extended tag")
    return count


def _in_avi(stream: BinaryIO) -> int:
    """By the index; a frame of no bytes stands for one that was dropped, in whose time the last one stays."""
    end = stream.seek(0, os.SEEK_END)
    ((_, riff, stop),) = _chunks(stream, 0, end)  # larger files have several, with indices of their own
    number, streams = None, 0
    for kind, start, inner_stop in _chunks(stream, riff + 4, stop):
        if kind == _AVI_LIST and _at(stream, start, 4) == b"hdrl":
            for inner, place, list_stop in _chunks(stream, start + 4, inner_stop):
                if inner == _AVI_LIST and _at(stream, place, 4) == b"strl":
                    (_, header, _), *_ = _chunks(stream, place + 4, list_stop)
                    if number is None and _at(stream, header, 4) == b"vids":
                        number = b"%02d" % streams
                    streams += 1
        elif kind == _AVI_INDEX and number is not None:
            rows = _at(stream, start, inner_stop - start)
            entries = (rows[at : at + _AVI_ENTRY] for at in range(0, len(rows), _AVI_ENTRY))
            return sum(entry[:4] in (number + b"dc", number + b"db") and any(entry[12:]) for entry in entries)
    raise ValueError("no index")


def _at(stream: BinaryIO, start: int, size: int) -> bytes:
    stream.seek(start)
    return stream.read(size)


def _chunks(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a RIFF file between two places: (kind, start and end of the content)."""
    while start + 8 <= end:
        head = _at(stream, start, 8)
        stop = start + 8 + int.from_bytes(head[4:], "little")
        if stop > end:
            raise ValueError("a chunk that is cut short")
        yield head[:4], start + 8, stop
        start = stop + stop % 2


_COUNTS = {rb"\x1a\x45\xdf\xa3": _in_matroska, rb"FLV\x01": _in_flash, rb"RIFF....AVI ": _in_avi}
