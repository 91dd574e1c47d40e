"""A look over sets of patches: what would spoil a training is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from toy_patches import toy_patches

from hardnet_suite.data.patch_check import check_patches


def test_a_good_set():
    report = check_patches((toy_patches("a"), toy_patches("b", side=65, seed=1)))
    assert not report.findings
    assert report.summary() == {
        "patches of": "a, b",
        "patches": "144 of 64×64 to 65×65 pixels",
        "points": "48",
    }
    assert check_patches((toy_patches("a"),), pairs=1200).summary()["pairs"] == "1,200"


@pytest.mark.parametrize("read", [True, False])
def test_what_is_odd(read):
    patches = toy_patches("a")
    pixels, ids = patches.patches.copy(), patches.point_ids.copy()
    pixels[4] = 255
    pixels[8] = pixels[7]  # of one point
    pixels[20] = pixels[0]  # of another
    ids[-1] = 99_999
    report = check_patches((replace(patches, patches=pixels, point_ids=ids),), read=read)
    kinds = {finding.kind: (finding.where, finding.what) for finding in report.findings}
    expected = {"point with one patch"}
    if read:
        expected |= {"constant patch", "equal patches of different points"}
        assert kinds["constant patch"] == (
            "a, patch 4",
            "all pixels are 255: it has no descriptor of its own",
        )
        where, what = kinds["equal patches of different points"]
        assert (where, what) == ("a, patch 20", "equals patch 0 of point 0, but is of point 42")
    assert kinds.keys() == expected
    assert len(report.findings) == len(expected)
    assert "point 99999 for one" in kinds["point with one patch"][1]
    assert "left out of training" in " ".join(report.brief())


@pytest.mark.parametrize("shift", [0, 1])
def test_equal_patches_of_two_sets_are_told(shift):
    """Points of two sets differ, whatever their numbers."""
    first, second, third = (toy_patches(name, seed=seed) for seed, name in enumerate("abc"))
    pixels = second.patches.copy()
    pixels[5] = first.patches[5 - 3 * shift]
    second = replace(second, patches=pixels)
    (finding,) = check_patches((first, second, third)).findings
    assert (finding.level, finding.kind) == ("warning", "equal patches of different points")
    assert finding.where == "b, patch 5"
    assert finding.what == f"equals patch {5 - 3 * shift} of point {7 - 7 * shift} of a, but is of point 7"
    assert not check_patches((first, second, third), read=False).findings


def test_pairs_to_score_need_no_second_patch():
    patches = toy_patches("a")
    ids = np.arange(len(patches.patches))
    assert not check_patches((replace(patches, point_ids=ids),), pairs=3).findings
