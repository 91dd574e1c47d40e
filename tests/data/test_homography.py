"""Sequences of images with homographies."""

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.homography import read_sequence, read_sequences
from hardnet_suite.errors import UserError

TEXT = "1.1 0.2 3\n-0.1 0.9 4\n1e-4 0 1\n"
MATRIX = np.array([[1.1, 0.2, 3], [-0.1, 0.9, 4], [1e-4, 0, 1]])


def make_sequence(folder, image="{}.png", file="H_1_{}", count=4):
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (8, 6)).save(folder / image.format(number))
        if number > 1:
            (folder / file.format(number)).write_text(TEXT)
    return folder


@pytest.mark.parametrize("image", ["{}.png", "{}.ppm", "img{}.ppm", "img{}.jpg", "{:03d}.bmp", "{}.JPG"])
@pytest.mark.parametrize("file", ["H_1_{}", "H1to{}p", "H_1_{}.txt", "H_1_{}.csv"])
def test_layouts(tmp_path, image, file):
    sequence = read_sequence(make_sequence(tmp_path / "wall", image, file))
    assert sequence.name == "wall"
    assert [path.name for path in sequence.images] == [image.format(number) for number in (1, 2, 3, 4)]
    np.testing.assert_array_equal(sequence.homographies, np.stack([MATRIX] * 3))


def test_ten_images_are_in_the_order_of_their_numbers(tmp_path):
    folder = make_sequence(tmp_path / "wall", count=12)
    (folder / "H_1_10").write_text("2 0 0\n0 2 0\n0 0 1")
    sequence = read_sequence(folder)
    assert [int(path.stem) for path in sequence.images] == list(range(1, 13))
    np.testing.assert_array_equal(sequence.homographies[8], np.diag([2, 2, 1]))


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(" ", ","),
        TEXT.replace(" ", ", "),
        "\n" + TEXT + "\n\n",
        "\ufeff" + TEXT,
    ],
)
def test_spaces_commas_and_line_ends(tmp_path, text):
    folder = make_sequence(tmp_path / "wall")
    (folder / "H_1_3").write_bytes(text.encode())
    np.testing.assert_array_equal(read_sequence(folder).homographies[1], MATRIX)


def test_other_files_are_ignored(tmp_path):
    folder = make_sequence(tmp_path / "wall")
    for name in ("README.txt", "H_2_3", "matches.png", "1.txt", "preview1.jpg", "H_1_x"):
        (folder / name).write_text("text")
    assert len(read_sequence(folder).images) == 4


def test_numbers_may_be_left_out(tmp_path):
    folder = make_sequence(tmp_path / "wall")
    (folder / "2.png").unlink()
    (folder / "H_1_2").unlink()
    assert [path.name for path in read_sequence(folder).images] == ["1.png", "3.png", "4.png"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "3.png").unlink(), "H_1_3, but no image 3"),
        (lambda f: (f / "1.png").unlink(), "lacks image 1"),
        (lambda f: (f / "H_1_3").unlink(), r"3\.png, but no homography H_1_3"),
        (
            lambda f: [(f / f"H_1_{number}").unlink() for number in (2, 3, 4)],
            r"2\.png, but no homography H_1_2",
        ),
        (lambda f: (f / "H_1_3").write_text("1 0 0 0 1 0 0 0 1"), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text("1 0 0\n0 1 0\n"), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n"), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text("1 0 0\n0 one 0\n0 0 1"), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_bytes(b"\xff\xfe\0"), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text("1 0 0\n" * 2000), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text(""), "H_1_3 is not a homography"),
        (lambda f: (f / "H_1_3").write_text("nan 0 0\n0 1 0\n0 0 1"), "H_1_3: expected a finite"),
        (lambda f: (f / "H_1_3").write_text("1 0 0\n0 inf 0\n0 0 1"), "H_1_3: expected a finite"),
        (lambda f: (f / "H_1_3").write_text("1 2 3\n2 4 6\n0 0 1"), "H_1_3: expected an invertible"),
        (lambda f: (f / "H_1_3").write_text("0 0 0\n0 0 0\n0 0 0"), "H_1_3: expected an invertible"),
        (lambda f: Image.new("L", (8, 6)).save(f / "3.jpg"), r"has 3\.jpg and 3\.png"),
        (lambda f: (f / "H1to3p").write_text(TEXT), "has H1to3p and H_1_3"),
    ],
)
def test_damage_is_told(tmp_path, damage, message):
    folder = make_sequence(tmp_path / "wall")
    damage(folder)
    with pytest.raises(UserError, match=message):
        read_sequence(folder)


def test_a_folder_in_place_of_a_homography(tmp_path):
    folder = make_sequence(tmp_path / "wall")
    (folder / "H_1_3").unlink()
    (folder / "H_1_3").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*H_1_3"):
        read_sequence(folder)


def test_a_single_image(tmp_path):
    folder = make_sequence(tmp_path / "wall", count=1)
    (folder / "H_1_1").write_text(TEXT)
    with pytest.raises(UserError, match="no image but the first"):
        read_sequence(folder)


def test_folders_of_sequences(tmp_path):
    make_sequence(tmp_path / "v_b")
    make_sequence(tmp_path / "i_a", "img{}.ppm", "H1to{}p")
    (tmp_path / "other").mkdir()
    assert [sequence.name for sequence in read_sequences(tmp_path)] == ["i_a", "v_b"]
    assert [sequence.name for sequence in read_sequences(tmp_path / "v_b")] == ["v_b"]
    with pytest.raises(UserError, match="no sequences in"):
        read_sequences(tmp_path / "other")
    Image.new("L", (8, 6)).save(tmp_path / "other/1.png")
    with pytest.raises(UserError, match="no homographies in"):
        read_sequence(tmp_path / "other")
    with pytest.raises(UserError, match="no folder"):
        read_sequences(tmp_path / "none")


@pytest.mark.parametrize("place", [".", "v_b"])
@pytest.mark.parametrize("numbers", [(1, 2), (1, 2, 3, 4), (1, 3)])
def test_images_without_homographies_beside_sequences_are_told(tmp_path, place, numbers):
    make_sequence(tmp_path / "i_a")
    make_sequence(tmp_path / "v_c")
    (tmp_path / place).mkdir(exist_ok=True)
    for number in numbers:
        Image.new("L", (8, 6)).save(tmp_path / place / f"{number}.png")
    with pytest.raises(UserError) as error:
        read_sequences(tmp_path)
    expected = f"{tmp_path / place} has {numbers[1]}.png, but no homography H_1_{numbers[1]}"
    assert str(error.value) == expected


@pytest.mark.parametrize("names", [[], ["1.png"], ["1.png", "1.jpg"], ["2.png", "7.png"], ["a.png", "b.png"]])
def test_folders_that_are_no_sequence_are_ignored(tmp_path, names):
    make_sequence(tmp_path / "i_a")
    (tmp_path / "other").mkdir()
    for name in names:
        Image.new("L", (8, 6)).save(tmp_path / "other" / name)
    assert [sequence.name for sequence in read_sequences(tmp_path)] == ["i_a"]


def test_real_sequences(shared):
    graf, churchill = read_sequences(shared / "data" / "homography")
    assert (graf.name, churchill.name) == ("graf", "v_churchill")
    assert [path.name for path in churchill.images] == [f"{number}.png" for number in range(1, 7)]
    assert graf.homographies.shape == (5, 3, 3)
    assert churchill.homographies[0, 0, 0] == 2.3594
