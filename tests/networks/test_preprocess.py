from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite.networks import ARCHS, PREPROCESS, SSDArch

RGB = torch.tensor([255.0, 128.0, 0.0]).view(1, 3, 1, 1)


def test_every_model_has_its_record():
    assert PREPROCESS.keys() == ARCHS.keys()


def test_centernet_takes_bgr_by_its_own_mean():
    for name in ("centernet_hardnet68", "centernet_hardnet85"):
        expected = torch.tensor(
            [
                -0.40789654 / 0.28863828,
                (128 / 255 - 0.44719302) / 0.27408164,
                (1 - 0.47026115) / 0.27809835,
            ]
        )
        torch.testing.assert_close(PREPROCESS[name].normalize(RGB).flatten(), expected)
    assert PREPROCESS["centernet_hardnet68"].resize == "keep"
    assert (PREPROCESS["centernet_hardnet85"].resize, PREPROCESS["centernet_hardnet85"].size) == (
        "stretch",
        512,
    )


def test_detectors_stretch_to_their_own_size():
    for name, row in ARCHS.items():
        if isinstance(row, SSDArch):
            assert (PREPROCESS[name].resize, PREPROCESS[name].size) == ("stretch", row.size)


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85"])
def test_classifiers_take_rgb_as_imagenet_does(name):
    record = PREPROCESS[name]
    expected = torch.tensor([(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(record.normalize(RGB).flatten(), expected)
    assert (record.resize, record.resize_to, record.size) == ("short", 256, 224)


def test_patches_are_grey_as_pillow_makes_them_in_0_to_1():
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.float32) / 255
    out = PREPROCESS["hardnet_descriptor"].normalize(torch.from_numpy(rgb).permute(2, 0, 1)[None])
    assert out.shape == (1, 1, 8, 9)
    torch.testing.assert_close(out[0, 0], torch.from_numpy(grey), rtol=0, atol=0.51 / 255)  # Pillow rounds


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "ssd512_hardnet85", "ssd320_hardnet39ds"])
def test_ssd_takes_bgr_less_the_mean_undivided(name):
    values = PREPROCESS[name].normalize(RGB).flatten()
    assert values.tolist() == [0.0 - 104, 128.0 - 117, 255.0 - 123]


def test_pixel_units():
    record = PREPROCESS["hardnet68"]
    assert record.pixel_mean == pytest.approx((123.675, 116.28, 103.53))
    assert record.pixel_std == pytest.approx((58.395, 57.12, 57.375))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
def test_any_dtype_comes_out_float32_and_the_input_stays(dtype):
    images = torch.randint(0, 256, (2, 3, 4, 5)).to(dtype)
    before = images.clone()
    out = PREPROCESS["ssd512_hardnet68"].normalize(images)
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    torch.testing.assert_close(images, before, rtol=0, atol=0)
    torch.testing.assert_close(out[:, 0], images[:, 2].float() - 104)


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 4, 5), (1, 4, 5, 3)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\), got") as caught:
        PREPROCESS["hardnet68"].normalize(torch.zeros(shape))
    assert str(shape) in str(caught.value)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PREPROCESS["hardnet68"].scale = 1.0
