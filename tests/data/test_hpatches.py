"""Strips of patches as HPatches has them."""

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.hpatches import STRIPS, read_sequence_strips, read_strip, strip_folders, write_strips
from hardnet_suite.errors import UserError


def make_strips(count=3, side=65, numbers=5):
    rng = np.random.default_rng(0)
    names = ["ref", *(f"{level}{number}" for level in "eht" for number in range(1, numbers + 1))]
    return {name: rng.integers(0, 256, (count, side, side), dtype=np.uint8) for name in names}


@pytest.fixture
def folder(tmp_path):
    write_strips(tmp_path / "v_wall", make_strips())
    return tmp_path / "v_wall"


def test_the_strips_of_the_benchmark():
    assert (
        *("ref", "e1", "e2", "e3", "e4", "e5", "h1", "h2", "h3", "h4", "h5"),
        *("t1", "t2", "t3", "t4", "t5"),
    ) == STRIPS


@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("side", [1, 32, 65])
@pytest.mark.parametrize("numbers", [1, 3, 5, 11])
def test_what_is_written_is_read(tmp_path, count, side, numbers):
    strips = make_strips(count, side, numbers)
    write_strips(tmp_path / "a" / "b", strips)
    there = read_sequence_strips(tmp_path / "a" / "b")
    assert list(there) == list(strips)
    for name, patches in strips.items():
        np.testing.assert_array_equal(there[name], patches)


def test_a_real_strip(shared):
    patches = read_strip(shared / "data" / "hpatches" / "ref.png")
    assert patches.shape == (1123, 65, 65)
    with Image.open(shared / "data" / "hpatches" / "ref.png") as image:
        np.testing.assert_array_equal(patches[17], np.asarray(image.convert("L"))[17 * 65 : 18 * 65])


@pytest.mark.parametrize("size", [(65, 64), (65, 66), (65, 131), (130, 65), (2, 3)])
def test_heights_that_are_no_multiple(tmp_path, size):
    Image.new("L", size).save(tmp_path / "ref.png")
    with pytest.raises(UserError, match=rf"{size[0]}×{size[1]} pixels, expected a height"):
        read_strip(tmp_path / "ref.png")


def test_colours_and_depths_are_read_as_grey(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (130, 65), dtype=np.uint8)
    expected = values.reshape(2, 65, 65)
    Image.fromarray(np.repeat(values[..., None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(values.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    rgba = np.dstack([values, values, values, np.full_like(values, 255)])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    for name in ("rgb", "deep", "rgba"):
        np.testing.assert_array_equal(read_strip(tmp_path / f"{name}.png"), expected)


def test_no_image(tmp_path):
    (tmp_path / "ref.png").write_text("patches")
    with pytest.raises(UserError, match="cannot read the image"):
        read_strip(tmp_path / "ref.png")
    with pytest.raises(UserError, match="no such file"):
        read_strip(tmp_path / "none.png")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["e3"], r"lacks 1 of 16 strips: e3\.png"),
        (["ref"], r"lacks 1 of 16 strips: ref\.png"),
        (["t5"], r"lacks 1 of 16 strips: t5\.png"),
        (["e5", "h5"], r"lacks 2 of 16 strips: e5\.png, h5\.png"),
        ([f"t{n}" for n in range(1, 6)], r"lacks 5 of 16 strips: t1\.png"),
        ([name for name in STRIPS if name != "ref"], r"lacks 15 of 16 .* e5\.png, …"),
        (["e4", "h4", "t4"], r"lacks 3 of 16 strips: e4\.png"),
    ],
)
def test_missing_strips(folder, missing, message):
    for name in missing:
        (folder / f"{name}.png").unlink()
    with pytest.raises(UserError, match=message):
        read_sequence_strips(folder)


def test_fewer_images(folder):
    for level in "eht":
        (folder / f"{level}5.png").unlink()
    assert len(read_sequence_strips(folder)) == 13


@pytest.mark.parametrize(
    ("size", "shape"), [((65, 130), "2 patches of 65×65"), ((39, 117), "3 patches of 39×39")]
)
def test_strips_of_other_shapes(folder, size, shape):
    Image.new("L", size).save(folder / "h2.png")
    with pytest.raises(
        UserError, match=rf"h2\.png has {shape} pixels, ref\.png has 3 patches of 65×65 pixels"
    ):
        read_sequence_strips(folder)


def test_no_sequence(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        read_sequence_strips(tmp_path / "none")
    with pytest.raises(UserError, match="lacks 16 of 16"):
        read_sequence_strips(tmp_path)


def test_nothing_is_overwritten(folder):
    before = (folder / "e2.png").read_bytes()
    with pytest.raises(UserError, match=r"e2\.png exists"):
        write_strips(folder, {"e6": np.zeros((1, 5, 5), np.uint8), "e2": np.zeros((1, 5, 5), np.uint8)})
    assert (folder / "e2.png").read_bytes() == before
    assert not (folder / "e6.png").exists()


@pytest.mark.parametrize(
    "strips",
    [
        {"x1": np.zeros((1, 5, 5), np.uint8)},
        {"../ref": np.zeros((1, 5, 5), np.uint8)},
        {"e0": np.zeros((1, 5, 5), np.uint8)},
        {"ref": np.zeros((1, 5, 6), np.uint8)},
        {"ref": np.zeros((5, 5), np.uint8)},
        {"ref": np.zeros((1, 5, 5))},
        {"ref": np.zeros((0, 5, 5), np.uint8)},
        {"ref": np.zeros((1, 5, 5), np.uint8), "e1": np.zeros((2, 5, 5), np.uint8)},
    ],
)
def test_no_strips(tmp_path, strips):
    with pytest.raises(ValueError, match="expected"):
        write_strips(tmp_path / "a", strips)
    assert not (tmp_path / "a").exists()


def test_folders_of_sequences(folder, tmp_path):
    write_strips(tmp_path / "i_dome", make_strips())
    (tmp_path / "other").mkdir()
    assert strip_folders(tmp_path) == [tmp_path / "i_dome", folder]
    assert strip_folders(folder) == [folder]
    assert strip_folders(tmp_path / "other") == []
    (tmp_path / "i_dome" / "ref.png").unlink()
    assert strip_folders(tmp_path / "i_dome") == [tmp_path / "i_dome"]
    with pytest.raises(UserError, match=r"i_dome lacks 1 of \d+ strips: ref\.png"):
        read_sequence_strips(tmp_path / "i_dome")
    with pytest.raises(UserError, match="no folder"):
        strip_folders(tmp_path / "none")


def test_strips_beside_sequences(folder):
    write_strips(folder.parent, make_strips())
    with pytest.raises(UserError, match="strips of its own and sequences with some, such as v_wall"):
        strip_folders(folder.parent)
