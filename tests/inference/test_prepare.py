"""Resizing, cropping and padding: sizes as in mmcv and torchvision, and the way back."""

from __future__ import annotations

from dataclasses import replace

import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from hardnet_suite.inference.prepare import Placement, content_size, prepare, to_input
from hardnet_suite.networks import PREPROCESS, Pad, Preprocess

PLAIN = Preprocess("rgb", 1.0, (0.0,) * 3, (1.0,) * 3, resize="keep")
SIZES = [(480, 640), (640, 480), (37, 53), (1, 9), (9, 1), (333, 333), (64, 1000)]


def image_of(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours: interpolation of noise would differ by more than rounding."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("target", [(320, 320), (300, 500), (500, 300), (33, 1000)])
@pytest.mark.parametrize("size", SIZES)
def test_fit_has_mmcvs_size(size, target):
    rule = replace(PLAIN, resize="fit", size=target)
    width, height = mmcv.rescale_size(size[::-1], target[::-1])
    assert content_size(*size, rule) == (max(height, 1), max(width, 1))


@pytest.mark.parametrize("factor", [(0.5, 0.5), (1.25, 0.75), (2.0, 1.0)])
@pytest.mark.parametrize("size", SIZES)
def test_factor_has_mmcvs_size(size, factor):
    rule = replace(PLAIN, resize="factor", factor=factor)
    transform = mmcv.transforms.Resize(scale_factor=factor[::-1])
    made = transform({"img": np.zeros((*size, 3), np.uint8)})["img"].shape[:2]
    assert content_size(*size, rule) == made


@settings(derandomize=True, max_examples=150, deadline=None)
@given(size=st.tuples(*[st.integers(1, 200)] * 2), target=st.tuples(*[st.integers(1, 200)] * 2))
def test_bilinear_pixels_are_opencvs_exactly(size, target):
    noise = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), dtype=np.uint8)
    pixels, placement = prepare(Image.fromarray(noise), replace(PLAIN, resize="stretch", size=target))
    theirs = mmcv.imresize(noise, target[::-1], interpolation="bilinear")
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), theirs)
    assert placement == Placement(size, target, (target[1] / size[1], target[0] / size[0]))


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
@pytest.mark.parametrize(
    ("size", "target"), [((48, 65), (96, 31)), ((120, 90), (64, 64)), ((7, 5), (70, 50))]
)
def test_other_interpolations_are_opencvs_to_the_rounding(size, target, interpolation):
    image = image_of(*size)
    rule = replace(PLAIN, resize="stretch", size=target, interpolation=interpolation)
    theirs = mmcv.imresize(np.array(image), target[::-1], interpolation=interpolation)
    assert np.abs(prepare(image, rule)[0].permute(1, 2, 0).numpy().astype(int) - theirs).max() <= 1


@pytest.mark.parametrize(
    "size", [(300, 400), (400, 300), (50, 70), (256, 256), (10, 300), (224, 224), (255, 511)]
)
@pytest.mark.parametrize("crop", [224, (96, 200), (300, 281), None])
def test_classifiers_input_is_torchvisions_exactly(size, crop):
    image = image_of(*size)
    pixels, _ = prepare(image, replace(PREPROCESS["hardnet68"], size=crop))
    steps = [v2.Resize(256), *([] if crop is None else [v2.CenterCrop(crop)])]
    theirs = np.array(v2.Compose(steps)(image))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), theirs)


RULES = {
    "keep": PLAIN,
    "stretch": replace(PLAIN, resize="stretch", size=(90, 120)),
    "fit": replace(PLAIN, resize="fit", size=(100, 160)),
    "factor": replace(PLAIN, resize="factor", factor=(0.5, 1.5)),
    "short": replace(PLAIN, resize="short", resize_to=64),
    "crop": replace(PLAIN, resize="short", resize_to=64, size=48),
    "crop larger than the image": replace(PLAIN, resize="short", resize_to=32, size=(80, 90)),
    "center pad": replace(PLAIN, pad=Pad(multiple=32, larger=True, center=True)),
    "fit and pad": replace(PLAIN, resize="fit", size=128, pad=Pad(to=(128, 128))),
    "square": replace(PLAIN, resize="fit", size=70, pad=Pad(square=True, multiple=16, center=True)),
    "divisor": replace(PLAIN, pad=Pad(multiple=64)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("size", [(60, 100), (97, 43), (64, 64)])
def test_boxes_come_back_to_where_they_were(name, size):
    """A white block is found in the input, and its box brought back to the image."""
    array = np.zeros((*size, 3), np.uint8)
    top, left = size[0] // 2 - 8, size[1] // 2 - 8
    array[top : top + 16, left : left + 16] = 255
    pixels, placement = prepare(Image.fromarray(array), RULES[name])
    rows, columns = np.nonzero(pixels[0].numpy() > 127)
    box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]])
    back = placement.boxes_to_image(box.float())[0]
    slack = 1.01 / min(*placement.scale, 1.0)
    torch.testing.assert_close(back, torch.tensor([left, top, left + 16, top + 16.0]), rtol=0, atol=slack)


@pytest.mark.parametrize("name", [name for name in RULES if not name.startswith("crop")])
@pytest.mark.parametrize("size", [(60, 100), (97, 43)])
def test_maps_come_back_to_the_images_size_without_the_padding(name, size):
    image = Image.new("RGB", size[::-1], (200, 200, 200))
    pixels, placement = prepare(image, replace(RULES[name], input_value=-7.0))
    inputs = to_input(pixels[None], replace(RULES[name], input_size=(150, 150), input_value=-7.0))
    maps = placement.map_to_image(inputs[0])
    assert maps.shape == (3, *size)
    torch.testing.assert_close(maps, torch.full_like(maps, 200.0))  # no padding has bled into it


def test_a_crop_has_no_way_back_for_maps():
    _, placement = prepare(image_of(100, 60), RULES["crop"])
    with pytest.raises(ValueError, match="centre crop"):
        placement.map_to_image(torch.zeros(1, 48, 48))


@pytest.mark.parametrize("side", [1, 31, 32, 33, 512])
def test_center_pad_is_the_published_one(side):
    pad = PREPROCESS["centernet_hardnet68"].pad
    assert pad.size(side, side) == ((side | 31) + 1,) * 2


def test_padding_colour_and_place():
    rule = replace(PLAIN, pad=Pad(to=(4, 6), value=(10, 20, 30)))
    pixels, placement = prepare(Image.new("RGB", (5, 3), "white"), rule)
    assert pixels.shape == (3, 4, 6)
    assert placement.offset == (0, 0)
    assert pixels[:, 3, 0].tolist() == pixels[:, 0, 5].tolist() == [10, 20, 30]
    assert (pixels[:, :3, :5] == 255).all()
    with pytest.raises(ValueError, match="does not fit into the padded size 4×6"):
        prepare(Image.new("RGB", (5, 5)), rule)


def test_the_input_is_padded_after_normalisation():
    rule = replace(PLAIN, mean=(100.0,) * 3, input_divisor=32, input_size=(40, 1), input_value=0.5)
    inputs = to_input(torch.full((2, 3, 33, 20), 100, dtype=torch.uint8), rule)
    assert inputs.shape == (2, 3, 64, 32)
    assert (inputs[:, :, :33, :20] == 0).all()
    assert (inputs[:, :, 33:] == 0.5).all()
    assert (inputs[:, :, :, 20:] == 0.5).all()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.25, 2.0])
def test_scaled_for_test_time_augmentation_as_mmseg_does(scale):
    transform = mmcv.transforms.Resize(scale_factor=scale, keep_ratio=True)
    image = image_of(37, 53)
    pixels, _ = prepare(image, PLAIN, scale)
    assert tuple(pixels.shape[1:]) == transform({"img": np.array(image)})["img"].shape[:2]


def test_only_rgb_images():
    with pytest.raises(ValueError, match="expected an RGB image, got mode L"):
        prepare(Image.new("L", (4, 4)), PLAIN)
