"""Changes of patches: each does what its options say, to each patch by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.patch_changes import (
    JITTER_NUMBERS,
    PHOTOMETRIC_NUMBERS,
    Jitter,
    PatchChanges,
    Photometric,
    change_grey_levels,
    flipped,
    jittered,
)

RANDOM = np.random.default_rng(0)
SMOOTH = np.clip(128 + 60 * np.sin(np.arange(64) / 5)[:, None] + 60 * np.cos(np.arange(64) / 7)[None], 0, 255)
PATCHES = np.stack([np.roll(SMOOTH, 9 * k, (0, 1)) for k in range(6)]).astype(np.uint8)
ALL = Photometric(shadow=0.5, gamma=0.5, contrast=0.5, blur=0.5, noise=0.5, jpeg=0.5)
NAMES = ["shadow", "gamma", "contrast", "blur", "noise", "jpeg"]


def test_no_rotation_and_the_whole_patch_change_nothing():
    still = Jitter(rotation=0, scale=(1, 1), ratio=(1, 1))
    random = RANDOM.random((len(PATCHES), JITTER_NUMBERS))
    np.testing.assert_array_equal(jittered(PATCHES, still, random), PATCHES)


@pytest.mark.parametrize("side", [63, 64, 65])
@pytest.mark.parametrize(("number", "turned"), [(0.0, 3), (1.0, 1)])
def test_a_right_angle_turns_the_patch(side, number, turned):
    patches = RANDOM.integers(0, 256, (2, side, side), dtype=np.uint8)
    random = np.full((2, JITTER_NUMBERS), 0.5)
    random[:, 0] = number
    result = jittered(patches, Jitter(rotation=90, scale=(1, 1), ratio=(1, 1)), random)
    difference = np.abs(result.astype(int) - np.rot90(patches, turned, (1, 2)))
    assert difference.max() <= 1


def test_a_crop_of_a_quarter_enlarges_the_corner_that_is_drawn():
    ramp = np.tile(np.arange(64, dtype=np.uint8), (1, 64, 1))
    halves = Jitter(rotation=0, scale=(0.25, 0.25), ratio=(1, 1))
    for number, start in ((0.0, 0), (0.5, 16), (1.0, 32)):
        random = np.full((1, JITTER_NUMBERS), number)
        row = jittered(ramp, halves, random)[0, 10].astype(float)
        expected = start - 0.25 + np.arange(64) / 2  # pixel areas: centres at (x + 0.5) / 2 − 0.5
        np.testing.assert_allclose(row, np.clip(expected, 0, 63), atol=0.51)


def test_the_eight_ways_to_flip_are_different_and_all_of_them():
    patch = np.arange(9, dtype=np.uint8).reshape(1, 3, 3).repeat(8, 0)
    results = {result.tobytes() for result in flipped(patch, np.arange(8))}
    turns = [np.rot90(base, k) for base in (patch[0], patch[0].T) for k in range(4)]
    assert results == {np.ascontiguousarray(turn).tobytes() for turn in turns}


def test_both_patches_of_a_pair_are_flipped_alike():
    pair = np.stack([PATCHES[:3], PATCHES[:3]], 1)
    result = flipped(pair, np.array([1, 4, 7]))
    np.testing.assert_array_equal(result[:, 0], result[:, 1])
    assert not np.array_equal(result, pair)


@pytest.mark.parametrize("name", NAMES)
def test_each_change_alone(name):
    random = RANDOM.random((len(PATCHES), PHOTOMETRIC_NUMBERS))
    np.testing.assert_array_equal(change_grey_levels(PATCHES, Photometric(), random), PATCHES)
    result = change_grey_levels(PATCHES, Photometric(**{name: 1.0}), random)
    assert result.dtype == np.uint8
    assert all((a != b).any() for a, b in zip(result, PATCHES, strict=True))
    correlations = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(result, PATCHES, strict=True)]
    assert min(correlations) > 0.5  # the content is still there


def test_a_blur_and_a_motion_blur_keep_constant_patches():
    constant = np.full((40, 64, 64), 77, np.uint8)
    random = RANDOM.random((40, PHOTOMETRIC_NUMBERS))
    np.testing.assert_array_equal(change_grey_levels(constant, Photometric(blur=1.0), random), constant)


@given(st.permutations(range(len(PATCHES))), st.integers(1, len(PATCHES)))
@settings(max_examples=20, deadline=None)
def test_a_patch_changes_in_the_same_way_in_any_batch(order, size):
    random = np.random.default_rng(3).random((len(PATCHES), JITTER_NUMBERS + PHOTOMETRIC_NUMBERS))
    chosen = list(order)[:size]
    for change, options, numbers in (
        (jittered, Jitter(rotation=30), random[:, :JITTER_NUMBERS]),
        (change_grey_levels, ALL, random[:, JITTER_NUMBERS:]),
    ):
        whole = change(PATCHES, options, numbers)
        np.testing.assert_array_equal(change(PATCHES[chosen], options, numbers[chosen]), whole[chosen])


def test_the_input_stays():
    before = PATCHES.copy()
    random = RANDOM.random((len(PATCHES), PHOTOMETRIC_NUMBERS))
    change_grey_levels(PATCHES, ALL, random)
    np.testing.assert_array_equal(PATCHES, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": 1}, "flips is 1"),
        ({"jitter": 5}, "jitter is 5"),
        ({"jitter": {"rotate": 3}}, "no option 'rotate'; did you mean rotation"),
        ({"jitter": {"rotation": -1}}, "jitter.rotation is -1"),
        ({"jitter": {"rotation": float("nan")}}, "jitter.rotation is nan"),
        ({"jitter": {"scale": 0.9}}, "jitter.scale is 0.9"),
        ({"jitter": {"scale": (0.9, 1.1)}}, "jitter.scale"),
        ({"jitter": {"ratio": (0, 1)}}, "jitter.ratio"),
        ({"jitter": {"ratio": (1.1, 0.9)}}, "jitter.ratio"),
        ({"photometric": {"blurr": 0.1}}, "did you mean blur"),
        ({"photometric": {"blur": 1.5}}, "photometric.blur is 1.5"),
        ({"photometric": {"noise": True}}, "photometric.noise is True"),
        ({"photometric": True}, "photometric is True"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        PatchChanges.of_options(**{"flips": True, "jitter": True, "photometric": None} | options)


def test_options_of_nothing():
    made = PatchChanges.of_options(flips=False, jitter=None, photometric=None)
    assert made == PatchChanges(False, None, None)
    assert PatchChanges.of_options(True, False, None) == PatchChanges(True, None, None)
    assert PatchChanges.of_options(True, True, {}) == PatchChanges(True, Jitter(), Photometric())
