"""Sets of patches in Brown's layout: what is written is read, and damage is told."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import phototour

from hardnet_suite.data.hpatches import write_strips
from hardnet_suite.data.patches import (
    BrownWriter,
    PatchSet,
    random_pairs,
    read_brown,
    read_patch_set,
    write_brown,
)
from hardnet_suite.errors import UserError


def make_set(count, per_point=3, pairs=40, seed=0, name="liberty"):
    rng = np.random.default_rng(seed)
    points = np.sort(rng.permutation(np.arange(count) // per_point) + 100)
    patches = rng.integers(0, 256, (count, 64, 64), dtype=np.uint8)
    return PatchSet(name, patches, points, random_pairs(points, pairs, seed) if pairs else None)


def assert_same(one, other):
    assert one.name == other.name
    np.testing.assert_array_equal(one.patches, other.patches)
    np.testing.assert_array_equal(one.point_ids, other.point_ids)
    assert (one.pairs is None) == (other.pairs is None)
    if one.pairs is not None:
        np.testing.assert_array_equal(one.pairs, other.pairs)


@pytest.fixture
def folder(tmp_path):
    write_brown(tmp_path / "liberty", make_set(300))
    return tmp_path / "liberty"


@pytest.mark.parametrize("count", [2, 255, 256, 257, 512, 700])
@pytest.mark.parametrize("pairs", [0, 40])
def test_what_is_written_is_read(tmp_path, count, pairs):
    patch_set = make_set(count, 2, pairs if count > 3 else 0)
    write_brown(tmp_path / "a" / "liberty", patch_set)
    assert_same(read_brown(tmp_path / "a" / "liberty"), patch_set)
    assert len(list((tmp_path / "a" / "liberty").glob("*.bmp"))) == -(-count // 256)


def test_parts_of_any_size_make_one_set(tmp_path):
    patch_set = make_set(700, pairs=0)
    with BrownWriter(tmp_path / "liberty") as writer:
        for start, end in [(0, 0), (0, 1), (1, 256), (256, 300), (300, 700)]:
            writer.add(patch_set.patches[start:end], patch_set.point_ids[start:end])
    assert_same(read_brown(tmp_path / "liberty"), patch_set)


def test_an_interrupted_set_is_none(tmp_path):
    patch_set = make_set(300)

    def write():
        with BrownWriter(tmp_path / "set") as writer:
            writer.add(patch_set.patches, patch_set.point_ids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    with pytest.raises(UserError, match=r"info\.txt"):
        read_brown(tmp_path / "set")


@pytest.mark.parametrize("count", [300, 512, 513])
@pytest.mark.parametrize("cut", [1, 3, 50])
def test_an_info_file_that_is_cut_short(tmp_path, count, cut):
    write_brown(tmp_path / "set", make_set(count))
    info = tmp_path / "set" / "info.txt"
    text = info.read_text()
    info.write_text(text[: text.rindex(" ")])  # within the last line
    with pytest.raises(UserError, match=rf"info\.txt, line {count}: expected at least 2 integers"):
        read_brown(tmp_path / "set", pairs=False)
    lines = text.splitlines(keepends=True)[: count - cut]
    info.write_text("".join(lines))
    if len(lines) > 256 * ((count - 1) // 256):
        with pytest.warns(UserWarning, match=rf"has {cut} more patches than .*info\.txt has lines for"):
            assert len(read_brown(tmp_path / "set", pairs=False)) == count - cut
    else:
        with pytest.raises(UserError, match="too short"):
            read_brown(tmp_path / "set", pairs=False)


@pytest.mark.parametrize(
    ("share", "whole"), [(0.2, False), (0.99, False), (1, True), (2, True), (1.5, False)]
)
def test_pairs_are_as_many_as_the_name_says(tmp_path, share, whole):
    write_brown(tmp_path / "set", make_set(300))
    file = tmp_path / "set" / "m50_40_40_0.txt"
    lines = 2 * file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: int(40 * share)]))
    if whole:
        assert len(read_brown(tmp_path / "set").pairs) == 40 * share
        return
    with pytest.raises(UserError, match=rf"has {int(40 * share)} pairs, but its name says 40"):
        read_brown(tmp_path / "set")


def test_the_files_are_those_that_torchvision_reads(tmp_path):
    patch_set = make_set(300)
    write_brown(tmp_path / "liberty", patch_set)
    folder = str(tmp_path / "liberty")
    np.testing.assert_array_equal(phototour.read_image_file(folder, "bmp", 300), patch_set.patches)
    np.testing.assert_array_equal(phototour.read_info_file(folder, "info.txt"), patch_set.point_ids)
    np.testing.assert_array_equal(
        phototour.read_matches_files(folder, "m50_40_40_0.txt"), read_brown(folder).pairs
    )
    lines = (tmp_path / "liberty" / "m50_40_40_0.txt").read_text()
    (tmp_path / "liberty" / "m50_100000_100000_0.txt").write_text(2500 * lines)
    theirs = phototour.PhotoTour(str(tmp_path), "liberty", train=False)
    first, second, same = theirs[7]
    ours = read_brown(folder)
    torch.testing.assert_close(first, torch.from_numpy(ours.patches[ours.pairs[7, 0]]))
    torch.testing.assert_close(second, torch.from_numpy(ours.patches[ours.pairs[7, 1]]))
    assert same == ours.pairs[7, 2]


def test_sheets_are_as_long_as_the_published_ones(folder):
    assert {path.stat().st_size for path in folder.glob("*.bmp")} == {1049654}


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("patches0000.bmp", "patches00000.bmp"),
        ("patches0001.bmp", "PATCHES0001.BMP"),
        ("patches0001.bmp", "patches000001.bmp"),
        ("m50_40_40_0.txt", "m50_040_040_0.txt"),
    ],
)
def test_two_files_of_one_number_are_told(folder, name, other):
    (folder / other).write_bytes((folder / name).read_bytes())
    if len(list(folder.glob("*.*"))) < 5:
        pytest.skip("the file system ignores case")
    for read in (read_brown, read_patch_set):
        with pytest.raises(UserError, match=r"has .* and .*: remove one of them") as error:
            read(folder)
        assert name in str(error.value)
        assert other in str(error.value)


@pytest.mark.parametrize("name", ["m50_40_40_0.txt", "info.txt"])
@pytest.mark.parametrize(
    "change", [lambda t: t.replace("\n", "\r\n"), lambda t: t.replace(" ", "   ") + "\n\n"]
)
def test_spaces_and_line_ends_do_not_matter(folder, name, change):
    before = read_brown(folder)
    file = folder / name
    file.write_bytes(change(file.read_text()).encode())
    assert_same(read_brown(folder), before)


def test_which_pairs_are_read(folder):
    assert len(read_brown(folder).pairs) == 40
    text = (folder / "m50_40_40_0.txt").read_text().splitlines(keepends=True)
    for count, lines in ((20, 20), (100_000, 1), (500_000, 4)):
        times = count // lines
        (folder / f"m50_{count}_{count}_0.txt").write_text("".join(times * text[:lines]))
    (folder / "m50_7_8_0.txt").write_text("of other numbers")
    assert len(read_brown(folder).pairs) == 100_000  # the official ones
    assert len(read_brown(folder, 20).pairs) == 20
    assert len(read_brown(folder, "500000").pairs) == 500_000
    assert read_brown(folder, False).pairs is None
    with pytest.raises(UserError, match=r"m50_30_30_0\.txt .there are: .*m50_20_20_0\.txt"):
        read_brown(folder, 30)
    (folder / "m50_100000_100000_0.txt").unlink()
    assert len(read_brown(folder).pairs) == 500_000  # the largest


def edit(path, number, line):
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "patches0000.bmp").unlink(), r"lacks 1 of 2 sheets .* patches0000\.bmp"),
        (lambda f: (f / "patches0001.bmp").unlink(), r"lacks 1 of 2 sheets .* patches0001\.bmp"),
        (
            lambda f: shutil.copy(f / "patches0000.bmp", f / "patches0002.bmp"),
            r"info\.txt is too short: its 300",
        ),
        (
            lambda f: (f / "info.txt").write_text("5 0\n" * 256),
            r"info\.txt is too short: its 256 .* there are 2",
        ),
        (lambda f: (f / "info.txt").write_text("5 0\n" * 513), r"lacks 1 of 3 sheets .* patches0002\.bmp"),
        (lambda f: (f / "info.txt").unlink(), r"cannot read .*info\.txt"),
        (lambda f: (f / "info.txt").write_text("\n\n"), r"info\.txt is empty"),
        (lambda f: (f / "info.txt").write_bytes(b"\xff\xfe1\0"), r"info\.txt is not text"),
        (
            lambda f: edit(f / "info.txt", 7, "x 0"),
            r"info\.txt, line 8: expected at least 2 integers, got 'x 0'",
        ),
        (lambda f: edit(f / "info.txt", 7, ""), r"info\.txt, line 8"),
        (lambda f: edit(f / "info.txt", 7, "9" * 30 + " 0"), r"info\.txt, line 8"),
        (
            lambda f: edit(f / "m50_40_40_0.txt", 3, "300 5 0 1 5 0 0"),
            r"line 4: patches \[300, 1\], expected 0 to 299",
        ),
        (lambda f: edit(f / "m50_40_40_0.txt", 3, "2 5 0 -1 5 0 0"), r"line 4: patches \[2, -1\]"),
        (lambda f: edit(f / "m50_40_40_0.txt", 3, "2 5 0 1"), r"line 4: expected at least 5 integers"),
        (lambda f: edit(f / "m50_40_40_0.txt", 3, "2 5 0 1 5 0 0"), r"line 4: points .* different sets"),
        (lambda f: (f / "m50_40_40_0.txt").write_text(""), r"m50_40_40_0\.txt is empty"),
        (
            lambda f: Image.new("L", (1024, 960)).save(f / "patches0001.bmp"),
            r"1024×960 pixels, expected 1024×1024",
        ),
        (lambda f: (f / "patches0001.bmp").write_bytes(b"BM"), r"cannot read the image .*patches0001\.bmp"),
        (
            lambda f: (f / "patches0001.bmp").write_text("no image"),
            r"cannot read the image .*patches0001\.bmp",
        ),
    ],
)
def test_damage_is_told(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_brown(folder)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_patch_set(tmp_path / "none")
    with pytest.raises(UserError, match="no patches in"):
        read_patch_set(tmp_path)
    with pytest.raises(UserError, match=r"no folder .*none"):
        read_brown(tmp_path / "none")


def test_sheets_in_colour_are_grey(folder):
    before = read_brown(folder)
    for path in folder.glob("*.bmp"):
        with Image.open(path) as image:
            coloured = image.convert("RGB")
        coloured.save(path)
    assert_same(read_brown(folder), before)


def test_nothing_is_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match="holds patches already"):
        write_brown(folder, make_set(5, pairs=0))
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("patches", "points", "message"),
    [
        (np.zeros((0, 64, 64), np.uint8), [], "empty set"),
        (np.zeros((2, 65, 65), np.uint8), [1, 1], "64×64"),
        (np.zeros((2, 64, 64), np.uint8), [1, -1], "at least 0"),
    ],
)
def test_sets_that_brown_does_not_hold(tmp_path, patches, points, message):
    with pytest.raises(ValueError, match=message):
        write_brown(tmp_path / "set", PatchSet("set", patches, np.array(points, np.int64)))
    assert not list(tmp_path.rglob("info.txt"))


GOOD = {"patches": np.zeros((3, 8, 8), np.uint8), "point_ids": np.zeros(3, np.int64)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"patches": np.zeros((3, 8, 9), np.uint8)},
        {"patches": np.zeros((3, 8, 8))},
        {"point_ids": np.zeros(4, np.int64)},
        {"point_ids": np.zeros(3, np.int32)},
        {"pairs": np.zeros((3, 2), np.int64)},
        {"pairs": np.zeros((3, 3))},
        {"pairs": np.array([[0, 3, 1]])},
        {"pairs": np.array([[-1, 2, 1]])},
        {"pairs": np.array([[0, 1, 2]])},
    ],
)
def test_no_set(wrong):
    PatchSet("good", **GOOD)
    with pytest.raises(ValueError, match="expected"):
        PatchSet("wrong", **{**GOOD, **wrong})


def test_pairs_that_contradict_the_points_are_not_written(tmp_path):
    patch_set = PatchSet(
        "set", np.zeros((2, 64, 64), np.uint8), np.array([1, 1]), np.array([[0, 1, 0]], np.int64)
    )
    with pytest.raises(ValueError, match="pairs that match where their points are equal"):
        write_brown(tmp_path / "set", patch_set)


@pytest.mark.parametrize("count", [2, 256, 300])
@pytest.mark.parametrize(
    ("pairs", "message"),
    [([[0, 1, 0]], "match where their points are equal"), (np.zeros((0, 3)), "expected pairs or None")],
)
def test_nothing_is_written_of_a_set_with_wrong_pairs(tmp_path, count, pairs, message):
    patches, points = np.zeros((count, 64, 64), np.uint8), np.ones(count, np.int64)
    with pytest.raises(ValueError, match=message):
        write_brown(tmp_path / "set", PatchSet("set", patches, points, np.array(pairs, np.int64)))
    assert not list(tmp_path.rglob("*"))
    writer = BrownWriter(tmp_path / "set")
    writer.add(patches, points)
    sheets = sorted(tmp_path.rglob("*.*"))
    writer.pairs = np.array(pairs, np.int64)
    with pytest.raises(ValueError, match=message):
        writer.close()
    assert sorted(tmp_path.rglob("*.*")) == sheets


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_random_pairs(count):
    points = np.array([4, 9, 4, 7, 9, 9, 5])
    pairs = random_pairs(points, count, seed=1)
    assert len(pairs) == count + count % 2
    assert pairs[:, 2].mean() == 0.5
    assert (pairs[:, 0] != pairs[:, 1]).all()
    np.testing.assert_array_equal(points[pairs[:, 0]] == points[pairs[:, 1]], pairs[:, 2])
    np.testing.assert_array_equal(pairs, random_pairs(points, count, seed=1))
    if count > 2:
        assert set(pairs[pairs[:, 2] == 1, :2].ravel()) == {0, 1, 2, 4, 5}
        assert set(pairs[pairs[:, 2] == 0, :2].ravel()) == set(range(7))
        assert (pairs != random_pairs(points, count, seed=2)).any()


@pytest.mark.parametrize("points", [[], [1], [1, 1], [1, 2, 3]])
def test_no_random_pairs(points):
    with pytest.raises(ValueError, match="at least two points"):
        random_pairs(np.array(points, np.int64), 4)


def test_sets_to_train_on(tmp_path, folder):
    assert_same(read_patch_set(folder), read_brown(folder))
    shutil.copytree(folder, tmp_path / "made" / "brown")
    np.testing.assert_array_equal(read_patch_set(tmp_path / "made").patches, read_brown(folder).patches)
    assert read_patch_set(tmp_path / "made").name == "made"


def strips(count, side=65, numbers=5, seed=0):
    names = ["ref", *(f"{level}{number}" for level in "eht" for number in range(1, numbers + 1))]
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, (count, side, side), dtype=np.uint8) for name in names}


def test_strips_to_train_on(tmp_path):
    first, second = strips(3), strips(2, numbers=2, seed=1)
    write_strips(tmp_path / "all" / "i_a", first)
    write_strips(tmp_path / "all" / "v_b", second)
    (tmp_path / "all" / "other").mkdir()
    patch_set = read_patch_set(tmp_path / "all")
    assert patch_set.patches.shape == (3 * 16 + 2 * 7, 65, 65)
    for point, patch in [
        (0, first["ref"][0]),
        (2, first["t5"][2]),
        (3, second["h2"][0]),
        (4, second["e1"][1]),
    ]:
        assert (patch_set.patches[patch_set.point_ids == point] == patch).all((1, 2)).sum() == 1
    assert np.bincount(patch_set.point_ids).tolist() == [16, 16, 16, 7, 7]
    assert len(read_patch_set(tmp_path / "all" / "v_b")) == 14
    shutil.copytree(tmp_path / "all", tmp_path / "made" / "hpatches")
    made = read_patch_set(tmp_path / "made")
    assert made.name == "made"
    np.testing.assert_array_equal(made.patches, patch_set.patches)
    np.testing.assert_array_equal(made.point_ids, patch_set.point_ids)
    (tmp_path / "none" / "hpatches").mkdir(parents=True)
    with pytest.raises(UserError, match="no patches in"):
        read_patch_set(tmp_path / "none")
    write_strips(tmp_path / "all" / "v_c", strips(2, side=33))
    with pytest.raises(UserError, match="patches of 33 and 65 pixels"):
        read_patch_set(tmp_path / "all")


@pytest.mark.parametrize("points", [[1], [1, 2, 3], [1, 1], [1, 1, 2]])
def test_sets_without_matches_cannot_be_trained_on(tmp_path, points):
    patches = np.zeros((len(points), 64, 64), np.uint8)
    write_brown(tmp_path / "set", PatchSet("set", patches, np.array(points, np.int64)))
    assert len(read_brown(tmp_path / "set")) == len(points)
    with pytest.raises(UserError, match="cannot be trained on"):
        read_patch_set(tmp_path / "set")
