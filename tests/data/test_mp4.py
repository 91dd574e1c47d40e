"""Edit lists of MP4 files, built box by box."""

from __future__ import annotations

import struct

import pytest

from hardnet_suite.data.mp4 import fragment_frames, shown_frames


def box(kind: str, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind.encode()) + content


def table(kind: str, rows, form: str, version: int = 0) -> bytes:
    return box(kind, struct.pack(">B3xI", version, len(rows)), *(struct.pack(form, *row) for row in rows))


def header(kind: str, scale: int, version: int = 0) -> bytes:
    return box(kind, struct.pack(">B3x", version), bytes(16 if version else 8), struct.pack(">I", scale))


def track(*edits, kind="vide", steps=((100, 10),), offsets=(), version=0) -> bytes:
    """A track of 250 units per second, by default of 100 frames, 25 per second."""
    samples = [table("stts", steps, ">ii")] + ([table("ctts", offsets, ">ii")] if offsets else [])
    media = [header("mdhd", 250, version), box("hdlr", bytes(8), kind.encode(), bytes(12))]
    form = ">Qqi" if version else ">Iii"
    listed = [box("edts", table("elst", [(*edit, 1 << 16) for edit in edits], form, version))]
    return box("trak", *(listed if edits else []), box("mdia", *media, box("minf", box("stbl", *samples))))


def movie(*tracks: bytes, version: int = 0) -> bytes:
    return box("ftyp", b"isom") + box("moov", header("mvhd", 1000, version), *tracks)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([], 100),
        ([(4000, 0)], 100),
        ([(1000, 750)], 25),  # the last second
        ([(1000, 0)], 25),  # the first one
        ([(500, -1), (1000, 750)], 25),  # after a pause
        ([(1000, 0), (1000, 500)], 50),
        ([(0, 750)], 25),  # to the end
    ],
)
def test_edit_lists(tmp_path, version, edits, shown):
    path = tmp_path / "a.mp4"
    sound = track((9000, 0), kind="soun", steps=((100, 10),))
    content = movie(sound, track(*edits, version=version), version=version)
    path.write_bytes(content)
    assert shown_frames(path, 100) == shown
    assert shown_frames(path, 99) is None
    for media in (struct.pack(">I4s", 1, b"mdat") + struct.pack(">Q", 20) + b"1234", box("mdat", b"12")):
        path.write_bytes(media + content)  # the frames come first
        assert shown_frames(path, 100) == shown


def test_rates_that_vary_and_frames_out_of_order(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(movie(track((1000, 250), steps=((50, 1), (20, 50)))))
    assert shown_frames(path, 70) == 5
    # shown in the order 0, 2, 1 …, one frame later
    path.write_bytes(movie(track((40, 20), (40, 40), offsets=((1, 10), (1, 20), (1, 0), (97, 10)))))
    assert shown_frames(path, 100) == 2
    path.write_bytes(movie(track((1000, 750), offsets=((3, 10),))))
    assert shown_frames(path, 100) is None


def test_other_and_damaged_files_say_nothing(tmp_path):
    path = tmp_path / "a.mp4"
    content = movie(track((1000, 750)))
    fragments = movie(track((1000, 750), steps=()))
    for other in (b"", b"RIFF" + bytes(40), bytes(100), box("ftyp", b"isom"), movie(), fragments):
        path.write_bytes(other)
        assert shown_frames(path, 100) is None
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert shown_frames(path, 100) is None
    path.write_bytes(content.replace(struct.pack(">I", 250), bytes(4)))  # no units per second
    assert shown_frames(path, 100) in (None, 0, 25)
    for place in range(len(content)):
        for value in (0, 255):
            path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
            assert shown_frames(path, 100) in (None, *range(101))
    assert shown_frames(tmp_path / "none.mp4", 100) is None
    path.write_bytes(content)
    for count in (-1, 0, 2**40):
        assert shown_frames(path, count) is None


def fragment(number: int, *counts: int) -> bytes:
    runs = [box("trun", struct.pack(">II", 0, count)) for count in counts]
    return box("moof", box("traf", box("tfhd", struct.pack(">II", 0, number)), *runs)) + box(
        "mdat", bytes(40)
    )


def test_fragments(tmp_path):
    path = tmp_path / "a.mp4"
    for version in (0, 1):
        places = [
            box("tkhd", struct.pack(">B3x", version), bytes(16 if version else 8), struct.pack(">I", number))
            for number in (1, 2)
        ]
        sound, picture = track(kind="soun", steps=()), track(steps=((12, 10),))
        tracks = [box("trak", place, each[8:]) for place, each in zip(places, (sound, picture), strict=True)]
        start = movie(*tracks, box("mvex", b""))
        content = start + fragment(1, 90) + fragment(2, 12, 3) + fragment(1, 90) + fragment(2, 12)
        path.write_bytes(content)
        assert fragment_frames(path) == 39
        assert shown_frames(path, 39) is None
        path.write_bytes(content[:-20])  # frames are lost, but announced
        assert fragment_frames(path) == 39
        for end in range(0, len(content), 3):
            path.write_bytes(content[:end])
            assert fragment_frames(path) in ((None,) if end < len(start) else (12, 27, 39))
    path.write_bytes(movie(picture))
    assert fragment_frames(path) is None
    assert fragment_frames(tmp_path / "none") is None
