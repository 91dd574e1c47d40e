"""Pairs of patches: right, repeatable, and no point twice in a batch."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_patches import toy_patches

from hardnet_suite.data.patches import PatchSet, write_brown
from hardnet_suite.errors import UserError
from hardnet_suite.inference import resize_patches
from hardnet_suite.openmm.data import patch_pairs
from hardnet_suite.openmm.data.parts import descriptor
from hardnet_suite.openmm.data.parts.descriptor import patch_sets, scored_pairs
from hardnet_suite.openmm.data.patch_pairs import (
    PatchPairsDataset,
    PatchVerificationDataset,
)
from hardnet_suite.openmm.data.sampling import SeededBatches, uniform_rows

PLAIN = {"flips": False, "jitter": None}


def numbered(
    points: int, per_point: int = 2, side: int = 64, name: str = "numbered", first: int = 0
) -> PatchSet:
    """All pixels of patch k have the value ``first + k``."""
    count = points * per_point
    values = (first + np.arange(count)).astype(np.uint8)
    patches = np.broadcast_to(values[:, None, None], (count, side, side)).copy()
    return PatchSet(name, patches, np.repeat(np.arange(points), per_point), None)


@pytest.fixture
def dataset(monkeypatch):
    """Builds a data set of these sets of patches."""

    def build(*sets: PatchSet, kind=PatchPairsDataset, **options):
        monkeypatch.setattr(patch_pairs, "patch_sets", lambda _: sets)
        return kind(sets=[patch_set.name for patch_set in sets], **options)

    return build


def test_pairs_show_one_point_in_two_different_patches(dataset):
    data = dataset(numbered(20, 4), **PLAIN)
    pairs = 255 * data.load_batch(0, 0, np.arange(200))["inputs"][:, :, 0, 0]
    first, second = pairs.round().long().T
    assert (first != second).all()
    assert (first // 4 == second // 4).all()
    assert (first // 4 == torch.arange(200) % 20).all()
    assert len(set(map(tuple, pairs.tolist()))) > 120  # of 240 ordered pairs


def test_points_of_several_sets_of_different_sides(dataset):
    data = dataset(numbered(3, 2), numbered(4, 3, side=65, name="other", first=100), **PLAIN)
    assert len(data) == 7
    pairs = 255 * data.load_batch(0, 0, np.arange(7))["inputs"]
    assert pairs.shape == (7, 2, 32, 32)
    assert (pairs[:3] < 6.5).all()
    assert (pairs[3:] > 99.5).all()


def test_points_with_one_patch_are_left_out(dataset):
    whole = numbered(3, 2)
    single = replace(whole, point_ids=np.array([0, 1, 1, 2, 2, 9]))
    data = dataset(single, **PLAIN)
    assert len(data) == 2
    values = {
        round(255 * value) for value in data.load_batch(0, 0, np.arange(40))["inputs"][:, 0, 0, 0].tolist()
    }
    assert values == {1, 2, 3, 4}
    with pytest.raises(UserError, match="no point of numbered has two patches"):
        dataset(replace(whole, point_ids=np.arange(6)), **PLAIN)


def test_the_input_is_that_of_the_descriptor_elsewhere(dataset):
    patches = toy_patches(points=4, per_point=2, side=65)
    data = dataset(patches, **PLAIN)
    pairs = data.load_batch(0, 0, np.arange(4))["inputs"]
    expected = resize_patches(torch.from_numpy(patches.patches)).view(4, 2, 32, 32)
    assert torch.equal(pairs.sort(1).values, expected.sort(1).values)
    verification = dataset(patches, kind=PatchVerificationDataset)
    batch = verification.__getitems__(list(range(4)))
    for pair, (_, first, second) in zip(batch["inputs"], batch["names"], strict=True):
        assert torch.equal(pair, expected.reshape(8, 32, 32)[[first, second]])


@pytest.mark.parametrize("photometric", [None, {"noise": 1.0, "jpeg": 0.5, "shadow": 0.5}])
def test_a_pair_depends_on_seed_epoch_and_index_alone(dataset, photometric):
    data = dataset(toy_patches(), photometric=photometric)
    whole = data.load_batch(3, 1, np.arange(24))["inputs"]
    again = data.load_batch(3, 1, np.array([20, 5]))["inputs"]
    assert torch.equal(again, whole[[20, 5]])
    for other in (data.load_batch(4, 1, np.arange(24)), data.load_batch(3, 2, np.arange(24))):
        assert not torch.equal(other["inputs"], whole)
    assert not torch.equal(data.load_batch(3, 1, np.arange(24, 48))["inputs"], whole)


def test_both_patches_are_flipped_alike_and_jittered_apart(dataset):
    same = toy_patches(points=8, per_point=1)
    twice = PatchSet("twice", same.patches.repeat(2, 0), same.point_ids.repeat(2), None)
    flips = dataset(twice, jitter=None).load_batch(0, 0, np.arange(8))["inputs"]
    assert torch.equal(flips[:, 0], flips[:, 1])
    plain = dataset(twice, **PLAIN).load_batch(0, 0, np.arange(8))["inputs"]
    assert not torch.equal(flips, plain)
    jitter = dataset(twice, flips=False).load_batch(0, 0, np.arange(8))["inputs"]
    assert all(not torch.equal(*pair) for pair in jitter)
    assert (jitter - plain).abs().mean() < 0.2


def test_a_wrapped_data_set_loads_whole_batches(dataset):
    data = SeededBatches(dataset(toy_patches()), seed=3)
    expected = data.load_batch(3, 2, np.array([4, 1]))["inputs"]
    assert torch.equal(data.__getitems__([(2, 4), (2, 1)])["inputs"], expected)
    assert torch.equal(data[(2, 1)]["inputs"], expected[1:])


def test_random_rows_are_uniform_and_functions_of_their_index():
    rows = uniform_rows((1, 2), np.arange(5000), 7)
    assert rows.shape == (5000, 7)
    assert rows.min() >= 0
    assert rows.max() < 1
    np.testing.assert_array_equal(uniform_rows((1, 2), np.array([17, 4]), 3), rows[[17, 4], :3])
    np.testing.assert_allclose(rows.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(rows.var(0), 1 / 12, atol=0.005)
    assert np.abs(np.corrcoef(rows.T) - np.eye(7)).max() < 0.06
    assert np.abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 0.03
    assert not np.isin(rows, uniform_rows((2, 1), np.arange(5000), 7)).any()


@pytest.mark.parametrize("ids", [[0, 0, 0], [0, 1, 2], [4]])
def test_sets_without_pairs_of_both_kinds(ids):
    patches = PatchSet("odd", np.zeros((len(ids), 64, 64), np.uint8), np.array(ids), None)
    with pytest.raises(UserError, match="odd: no pairs can be drawn"):
        scored_pairs([patches], None)
    of_one = replace(toy_patches(), pairs=np.array([[0, 1, 1]]))
    with pytest.raises(UserError, match="only the former"):
        scored_pairs([of_one], None)


@pytest.mark.parametrize("count", [0, 1, -4, 2.5, "100000", True])
def test_a_number_of_pairs_that_is_none(count):
    with pytest.raises(UserError, match="pairs="):
        scored_pairs([toy_patches()], count)


def test_pairs_of_a_set_are_its_own(dataset):
    own = np.array([[0, 1, 1], [0, 5, 0], [4, 3, 1]])
    data = dataset(
        replace(toy_patches("a"), pairs=own), toy_patches("b"), kind=PatchVerificationDataset, pairs=10
    )
    assert len(data) == 3 + 10
    batch = data.__getitems__([0, 1, 2, 3])
    assert batch["names"][:3] == [(0, 0, 1), (0, 0, 5), (0, 4, 3)]
    assert batch["names"][3][0] == 1
    assert batch["labels"].tolist()[:3] == [1, 0, 1]
    assert data.metainfo == {"sets": ["a", "b"]}
    assert list(islice(data[2]["labels"], 2)) == [1]


def test_a_number_of_pairs_that_no_set_needs():
    own = np.array([[0, 1, 1], [0, 5, 0]])
    sets = [replace(toy_patches(name), pairs=own) for name in ("a", "b")]
    assert [len(pairs) for pairs in scored_pairs(sets, None)] == [2, 2]
    with pytest.raises(UserError, match=r"pairs=10 has no effect, as each set has a file of pairs \(a, b\)"):
        scored_pairs(sets, 10)


@pytest.mark.parametrize(("pairs", "drawn"), [(None, 20_000), (2, 2), (7, 8), (500, 500)])
def test_a_small_set_has_as_many_pairs_as_are_asked_for(dataset, pairs, drawn):
    data = dataset(toy_patches(points=2, per_point=2), kind=PatchVerificationDataset, pairs=pairs)
    assert len(data) == drawn
    labels = scored_pairs(data.sets, pairs)[0][:, 2]
    assert labels.sum() == drawn // 2


def test_sets_are_read_once_and_again_when_they_change(tmp_path):
    write_brown(tmp_path / "a", toy_patches())
    write_brown(tmp_path / "b" / "brown", toy_patches(seed=1))
    options = {"data_root": str(tmp_path), "sets": ["a", "b/brown"]}
    first = patch_sets(options)
    assert [patch_set.name for patch_set in first] == ["a", "b/brown"]
    assert all(a.patches is b.patches for a, b in zip(first, patch_sets(options), strict=True))
    (alone,) = patch_sets({"data_root": str(tmp_path / "a")})
    assert alone.name == "a"
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    write_brown(tmp_path / "a", toy_patches(points=9))
    assert len(patch_sets(options)[0].patches) == 27


@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["a", "a"],
        ["a", "a/"],
        ["a", "b", "./a"],
        ["b/../a", "a"],
        ["", "."],
        3,
        None,
        [1],
        {"a": 1, "b": 2},
        "a\0",
    ],
)
def test_sets_that_are_no_names(sets):
    with pytest.raises(UserError, match="sets="):
        patch_sets({"data_root": "x", "sets": sets})


@pytest.mark.parametrize("place", ["a", "a/brown", "a/v_wall", "a/hpatches/v_wall", "a/linked"])
@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_sets_are_read_again_when_a_file_below_changes(tmp_path, monkeypatch, place, change):
    reads = []
    monkeypatch.setattr(descriptor, "read_patch_set", lambda folder: reads.append(folder) or toy_patches())
    if place == "a/linked":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "a").mkdir()
        (tmp_path / place).symlink_to(tmp_path / "elsewhere")
    file = tmp_path / place / "e1.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"one")
    options = {"data_root": str(tmp_path), "sets": "a"}
    patch_sets(options)
    patch_sets(options)
    assert len(reads) == 1
    if change == "in place":
        with file.open("r+b") as stream:
            stream.write(b"two")
        os.utime(file, ns=(0, 1))  # where the clock is coarse
    else:
        (tmp_path / "new").write_bytes(b"two")
        os.utime(tmp_path / "new", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        (tmp_path / "new").replace(file)
    patch_sets(options)
    assert len(reads) == 2


@pytest.mark.parametrize("kind", [PatchPairsDataset, PatchVerificationDataset])
@pytest.mark.parametrize("other", ["link", "absolute", "a/brown", "copy"])
def test_a_set_given_twice_is_an_error(tmp_path, kind, other):
    write_brown(tmp_path / "a" / "brown", toy_patches())
    (tmp_path / "link").symlink_to(tmp_path / "a")
    write_brown(tmp_path / "copy", toy_patches())
    name = str(tmp_path / "a") if other == "absolute" else other
    with pytest.raises(UserError, match=r"different ones|hold the same patches"):
        kind(data_root=str(tmp_path), sets=["a", name])


def test_sets_that_share_patches_or_points_alone_are_two(tmp_path):
    first = toy_patches()
    write_brown(tmp_path / "a", first)
    write_brown(tmp_path / "ids", replace(first, point_ids=first.point_ids + 1))
    write_brown(tmp_path / "pixels", replace(first, patches=first.patches ^ 1))
    assert len(patch_sets({"data_root": str(tmp_path), "sets": ["a", "ids", "pixels"]})) == 3


@pytest.mark.parametrize("root", ["", "root"])
def test_names_of_sets(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    absolute = {}
    for number, name in enumerate(["far/train", "root/train", "root/sub/b", "b"]):
        write_brown(tmp_path / name, toy_patches(seed=number))
        absolute[name] = str(tmp_path / name)

    def names(*sets):
        return [patch_set.name for patch_set in patch_sets({"data_root": root, "sets": list(sets)})]

    here = Path(root).resolve()
    inner = "train" if root else "root/train"
    assert names(absolute["far/train"]) == ["train"]
    assert names(absolute["root/sub/b"], inner) == ["b", inner]
    assert names(os.path.relpath(absolute["b"], here)) == [os.path.relpath(absolute["b"], here)]
    assert names(absolute["far/train"], absolute["root/train"]) == [
        absolute["far/train"],
        absolute["root/train"],
    ]
