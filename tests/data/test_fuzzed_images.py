"""Mutated images: each is decoded or refused in one line, and every reader of a file agrees about it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

import hostile_data
import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data import images
from hardnet_suite.data.fast_decoding import decode_plain
from hardnet_suite.data.images import header_sizes, read_rgb
from hardnet_suite.errors import UserError


@pytest.mark.parametrize("name", hostile_data.good_images())
def test_the_good_images_are_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(hostile_data.good_images()[name])
    assert read_rgb(path).shape[1::-1] == header_sizes(path)[1]


def test_mutated_images(tmp_path):
    table = hostile_data.counted(tmp_path, {"images": 96}, 0)["images"]
    assert table["answered"] >= 10
    assert table["refused"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_mutated_images(tmp_path, seed):
    hostile_data.counted(tmp_path, {"images": 3000}, seed)


def jpeg(**options) -> bytes:
    stream = io.BytesIO()
    waves = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(waves).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_undamaged_jpeg_files_are_decoded_by_opencv(options):
    pytest.importorskip("cv2")
    assert decode_plain(jpeg(**options), "rgb") is not None


@pytest.mark.parametrize("inserted", [b"\xff\xff\xff\xff", b"\xff\x4a", b"\xff\xd8", b"\xff\xc0\0\2"])
def test_a_marker_inside_a_scan_is_not_half_an_image(tmp_path, inserted):
    """OpenCV decodes the rows before it and returns the rest grey; Pillow says that the file is broken."""
    content = jpeg()
    middle = (content.index(b"\xff\xda") + len(content)) // 2
    content = content[:middle] + inserted + content[middle:]
    assert decode_plain(content, "rgb") is None
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with contextlib.suppress(UserError), Image.open(path) as image:
        assert np.array_equal(read_rgb(path), image.convert("RGB"))


def test_a_second_scan_of_a_baseline_jpeg_is_left_to_pillow():
    content = jpeg()
    scan = content.index(b"\xff\xda")
    assert decode_plain(content[:scan] + content[scan:-2] + content[scan:], "rgb") is None


def test_a_frame_of_no_length_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff\xc0\0\2\xff\xd9")
    with pytest.raises(UserError, match="cannot read the image"):
        read_rgb(path)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("name", hostile_data.good_images())
def test_bands_change_no_pixel(tmp_path, monkeypatch, name, channels):
    path = tmp_path / name
    path.write_bytes(hostile_data.good_images()[name])
    whole = read_rgb(path, channels=channels)
    monkeypatch.setattr(images, "_BAND", 5 * hostile_data.SIZE + 1)
    assert np.array_equal(read_rgb(path, channels=channels), whole)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_small_file_of_a_huge_image_takes_bounded_memory(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.new(mode, (13370, 13370)).save(
        path, compress_level=1, **({"transparency": 0} if mode == "P" else {})
    )
    program = (
        "import resource, sys; from hardnet_suite.data.images import read_rgb; read_rgb(sys.argv[1]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=hostile_data.ROOT)
    assert int(result.stdout) < 3 << 20  # KiB
