"""Frames that a video holds, of files that are built piece by piece."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.sources import images_of
from hardnet_suite.data.video_structure import frames_held, is_all_there
from hardnet_suite.errors import UserError


def element(kind: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = (kind.bit_length() + 7) // 8
    return kind.to_bytes(length, "big") + struct.pack(">Q", len(content) | 1 << 56) + content


def block(track: int, content: bytes = b"\x10", kind: int = 0xA3, flags: int = 0x80) -> bytes:
    return element(kind, bytes([0x80 | track, 0, 0, flags]), content)


def track(number: int, kind: int, codec: bytes = b"V_MJPEG") -> bytes:
    return element(0xAE, element(0xD7, bytes([number])), element(0x83, bytes([kind])), element(0x86, codec))


TRACKS = (track(1, 2), track(2, 1), track(3, 1))  # sound, and two pictures


def matroska(*clusters: bytes, tracks: tuple[bytes, ...] = TRACKS) -> bytes:
    whole = [element(0xEC, bytes(9)), element(0x1654AE6B, *tracks)]
    whole += [element(0x1F43B675, element(0xE7, b"\0"), each) for each in clusters]
    return element(0x1A45DFA3, b"head") + element(0x18538067, *whole, element(0x1C53BB6B, b"cues"))


def test_matroska(tmp_path):
    path = tmp_path / "a.mkv"
    group = element(0xA0, block(2, kind=0xA1), element(0x9B, b"\1"))
    content = matroska(block(1) * 4 + block(2) * 3 + block(3), group + block(1), block(1) * 20)
    path.write_bytes(content)
    assert frames_held(path) == 4
    for end in range(0, len(content), 17):
        path.write_bytes(content[:end])
        assert frames_held(path) is None
    for start in range(60, len(content) - 60, 7):
        path.write_bytes(content[:start] + bytes(60) + content[start + 60 :])
        assert frames_held(path) in (None, *range(5))
    start = content.index(b"\x1f\x43\xb6\x75")
    path.write_bytes(content[:start] + bytes(60) + content[start + 60 :])
    assert frames_held(path) is None
    path.write_bytes(re.sub(rb"(?s)\x18\x53\x80\x67.{8}", b"\x18\x53\x80\x67\1" + b"\xff" * 7, content))
    assert frames_held(path) is None  # of a stream, whose size was not known
    path.write_bytes(matroska(block(2, flags=0x84)))
    assert frames_held(path) is None
    path.write_bytes(matroska(block(1), tracks=(track(1, 2),)))
    assert frames_held(path) is None  # sound alone
    path.write_bytes(matroska(block(2) + block(2, b"\0") + block(2), tracks=(track(2, 1, b"V_VP8"),)))
    assert frames_held(path) == 2  # one is never shown


def tag(kind: int, content: bytes) -> bytes:
    head = bytes([kind]) + len(content).to_bytes(3, "big") + bytes(7)
    return head + content + struct.pack(">I", 11 + len(content))


def test_flash(tmp_path):
    path = tmp_path / "a.flv"
    start = b"FLV\1\5" + struct.pack(">II", 9, 0)
    picture = [tag(9, content) for content in (b"\x17\0head", b"\x17\1key", b"\x27\1frame", b"\x17\2end")]
    parts = [start, tag(18, b"info"), *picture, tag(8, b"sound"), tag(8, b"sound")]
    content, ends = b"".join(parts), {*np.cumsum([*map(len, parts)])}
    path.write_bytes(content)
    assert frames_held(path) == 2
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert (frames_held(path) is None) == (end not in ends)
    path.write_bytes(start + tag(9, b"\x12..") + tag(9, b"\x22..") + tag(8, b"sound"))
    assert frames_held(path) == 2
    path.write_bytes(start + tag(9, b"\x90hvc1"))
    assert frames_held(path) is None


def chunk(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def motion_jpeg(layout: str) -> bytes:
    """An AVI of Motion JPEG and sound, of a chunk per letter: a frame, a dropped frame, sound."""
    stream = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(stream, "JPEG")
    contents = {"f": (b"01dc", stream.getvalue()), "d": (b"01dc", b""), "s": (b"00wb", bytes(2))}
    count = len(layout) - layout.count("s")
    header = chunk(b"avih", struct.pack("<14I", 40000, 0, 0, 0x10, count, 0, 2, 0, 16, 16, 0, 0, 0, 0))
    rates = (
        (b"auds", bytes(4), 1, 8000, layout.count("s"), 1, struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)),
        (b"vids", b"MJPG", 1, 25, count, 0, struct.pack("<IiiHH4s5I", 40, 16, 16, 1, 24, b"MJPG", *[0] * 5)),
    )
    streams = [
        chunk(
            b"LIST",
            b"strl",
            chunk(b"strh", kind, codec, struct.pack("<10I8x", 0, 0, 0, scale, rate, 0, length, 0, 0, size)),
            chunk(b"strf", form),
        )
        for kind, codec, scale, rate, length, size, form in rates
    ]
    chunks, rows, place = [], [], 4
    for letter in layout:
        kind, content = contents[letter]
        chunks.append(chunk(kind, content))
        rows.append(kind + struct.pack("<III", 0x10, place, len(content)))
        place += len(chunks[-1])
    parts = [
        chunk(b"LIST", b"hdrl", header, *streams),
        chunk(b"LIST", b"movi", *chunks),
        chunk(b"idx1", *rows),
    ]
    return chunk(b"RIFF", b"AVI ", *parts)


def test_avi(tmp_path):
    path = tmp_path / "a.avi"
    content = motion_jpeg("fsfsdddddddddddddfssss")
    path.write_bytes(content)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 16
    assert frames_held(path) == 3
    assert [image.open().size for image in images_of(path)] == [(16, 16)] * 3
    path.write_bytes(content + chunk(b"RIFF", b"AVIX"))
    assert frames_held(path) is None
    for end in range(0, len(content), 17):
        path.write_bytes(content[:end])
        assert frames_held(path) is None


def test_frames_far_apart_in_the_sound_are_read(tmp_path):
    """In a process of its own: OpenCV asks for its limit once."""
    path = tmp_path / "a.avi"
    path.write_bytes(motion_jpeg("ff" + 5000 * "s" + "f" + 5000 * "s" + "f"))
    program = (
        "from hardnet_suite.data.sources import images_of\n"
        f"print([image.open().size for image in images_of({str(path)!r})])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([(16, 16)] * 4)


def test_a_picture_that_ends_before_the_file_is_whole(tmp_path):
    path = tmp_path / "a.mkv"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for seed in range(50):
        writer.write(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    content = path.read_bytes()
    at = re.search(rb"\x44\x89\x88", content).end()  # the duration, in milliseconds
    assert struct.unpack_from(">d", content, at) == (2000,)
    content = content[:at] + struct.pack(">d", 9000) + content[at + 8 :]  # as with sound of 9 s
    path.write_bytes(content)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) == 225
    assert [image.open().size for image in images_of(path)] == [(64, 48)] * 50
    path.write_bytes(content[: len(content) // 2])
    *_, last = images_of(path)
    with pytest.raises(UserError, match=r"a\.mkv breaks off after 2\d of 225 frames"):
        last.open()


def test_formats_that_promise_nothing(tmp_path):
    path = tmp_path / "a.ts"
    packet = b"\x47" + bytes(187)
    for content in (packet * 2, (bytes(4) + packet) * 2, b"\0\0\1\xba" + bytes(99), b"OggS" + bytes(99)):
        path.write_bytes(content)
        assert is_all_there(path)
    header, properties = "3026b2758e66cf11a6d900aa0062ce6c", "a1dcab8c47a9cf118ee400c00c205365"
    for size, whole in ((200, True), (201, False), (0, False)):
        start = bytes.fromhex(header) + bytes(14) + bytes.fromhex(properties) + bytes(24)
        path.write_bytes((start + struct.pack("<Q", size)).ljust(200, b"\0"))
        assert is_all_there(path) == whole
    for content in (b"", packet, b"RIFF" + bytes(400), bytes.fromhex(header)):
        path.write_bytes(content)
        assert not is_all_there(path)
        assert frames_held(path) is None
    assert not is_all_there(tmp_path / "none")
    assert frames_held(tmp_path / "none") is None
