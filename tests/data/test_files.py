"""Paths that are no files: one line at once, whatever reads them."""

from __future__ import annotations

import os
import socket

import pytest

from hardnet_suite.data.coco.layout import read_json
from hardnet_suite.data.files import NotAFileError, copies_across, is_file, read_bytes, read_text, real_path
from hardnet_suite.data.images import exif_orientation, header_sizes, read_rgb
from hardnet_suite.data.segmentation.label_images import read_stored
from hardnet_suite.data.voc.annotation import read_annotation
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import load_model, predict
from hardnet_suite.weights import open_weights


@pytest.fixture(params=["pipe", "device", "socket"])
def path(request, tmp_path):
    path = tmp_path / "file.png"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    return path


@pytest.mark.parametrize(
    "read", [read_rgb, header_sizes, exif_orientation, read_stored, read_json, read_annotation, open_weights]
)
def test_every_reader_refuses_it(path, read):
    with pytest.raises(UserError, match="a pipe, socket or device, not a file") as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_bytes, read_text])
def test_it_is_an_error_of_the_system(path, read):
    with pytest.raises(NotAFileError):
        read(path)


def test_a_folder_run_goes_on(path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(path.parent / "good.png")
    model = load_model("fchardnet70", weights="camvid", device="cpu")
    failed = []
    (prediction,) = predict(model, [path, path.parent / "good.png"], failed=failed)
    assert prediction.name.endswith("good.png")
    assert "a pipe, socket or device" in failed[0][1]


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "d/" * 3000, "a\ud800"])
def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path, name):
    path, good = tmp_path / name, tmp_path / "good"
    good.write_bytes(b"1")
    assert not is_file(path)
    assert real_path(path) == str(path)
    assert copies_across({"train": [path, good], "val": [path]}) == []
    with pytest.raises(OSError, match=r"No such file|too long|directory"):
        read_bytes(path)
