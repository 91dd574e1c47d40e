"""``make-patches``."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from hardnet_suite.cli import main
from hardnet_suite.data.hpatches import read_sequence_strips
from hardnet_suite.data.patches import read_patch_set


def textured(seed=0, width=220, height=180):
    rng = np.random.default_rng(seed)
    image = sum(
        cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma) * sigma
        for sigma in (2, 4, 8)
    )
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.fixture
def sequence(tmp_path):
    folder = tmp_path / "sequences" / "v_wall"
    folder.mkdir(parents=True)
    matrix = np.array([[0.95, -0.1, 15.0], [0.12, 1.02, -12.0], [2e-4, -1e-4, 1.0]])
    Image.fromarray(textured()).save(folder / "1.png")
    Image.fromarray(cv2.warpPerspective(textured(), matrix, (240, 200))).save(folder / "2.png")
    np.savetxt(folder / "H_1_2", matrix)
    return folder


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(textured(1)).save(folder / "a.jpg")
    Image.fromarray(textured(2)).save(folder / "sub" / "b.png")
    return folder


def run(capsys, *arguments):
    """(status, standard output, standard error)"""
    status = main(["make-patches", *map(str, arguments)])
    return status, *capsys.readouterr()


def refused(capsys, *arguments):
    status, _, error = run(capsys, *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("parent", [True, False])
def test_sequences(capsys, tmp_path, sequence, parent):
    out = tmp_path / "out"
    status, text, error = run(capsys, sequence.parent if parent else sequence, "--out", out)
    assert (status, error) == (0, "")
    strips = read_sequence_strips(out / "hpatches" / "v_wall")
    assert list(strips) == ["ref", "e1", "h1", "t1"]
    patch_set = read_patch_set(out)
    assert "v_wall: " in text
    assert "overlap others" in text
    assert f"training set: {out}/brown ({len(patch_set):,} patches)" in text
    assert f"strips: {out}/hpatches ({len(strips['ref'])} points)" in text


def test_photographs(capsys, tmp_path, photographs):
    out = tmp_path / "out"
    status, text, error = run(
        capsys, "--warp", photographs, "--views", 3, "--out", out, "--patches-per-image", 20
    )
    assert (status, error) == (0, "")
    patch_set = read_patch_set(out)
    assert 4 < len(np.unique(patch_set.point_ids)) <= 40
    assert {path.name for path in (out / "hpatches").iterdir()} <= {"a", "b"}
    assert "2 images: " in text
    assert "beyond --patches-per-image" in text


@pytest.mark.parametrize("only", ["brown", "hpatches"])
def test_one_kind_alone(capsys, tmp_path, sequence, only):
    assert run(capsys, sequence, "--out", tmp_path / "out", "--only", only)[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {only, "make-patches.json"}
    patch_set = read_patch_set(tmp_path / "out")
    assert (patch_set.name, patch_set.patches.shape[1]) == ("out", 64 if only == "brown" else 65)


@pytest.mark.parametrize(("given", "views"), [([], None), (["--warp"], 5), (["--warp", "--views", "2"], 2)])
def test_the_record_tells_how_the_patches_were_made(capsys, tmp_path, sequence, photographs, given, views):
    folder = photographs if given else sequence
    assert run(capsys, folder, "--out", tmp_path / "out", "--only", "brown", *given)[0] == 0
    record = json.loads((tmp_path / "out" / "make-patches.json").read_text())
    assert record["made_from"] == {"folders": [str(folder)], "warp": bool(given), "views": views}
    assert record["sources"] == (["a", "b"] if given else ["v_wall"])
    assert (record["options"]["training"], record["options"]["strips"]) == (True, False)


def test_options_have_an_effect(capsys, tmp_path, photographs):
    plain = ["--warp", photographs, "--views", "2", "--only", "brown"]
    sets = {}
    for name, options in {
        "plain": [],
        "seed": ["--seed", "5"],
        "views": ["--views", "1"],
        "region": ["--region", "9"],
        "size": ["--min-size", "6"],
        "orb": ["--detectors", "orb"],
        "both": ["--detectors", "sift", "orb"],
        "limit": ["--patches-per-image", "5"],
    }.items():
        assert run(capsys, *plain, *options, "--out", tmp_path / name)[0] == 0
        sets[name] = read_patch_set(tmp_path / name).patches.tobytes()
    assert len(set(sets.values())) == len(sets)


def test_photographs_without_keypoints_are_named(capsys, tmp_path, photographs):
    Image.new("L", (50, 50), 3).save(photographs / "flat.png")
    Image.new("L", (1, 1), 3).save(photographs / "pixel.png")
    status, text, error = run(capsys, "--warp", photographs, "--views", 1, "--out", tmp_path / "out")
    assert status == 0
    assert error.splitlines() == ["flat: 0 keypoints, 0 kept", "pixel: 0 keypoints, 0 kept"]
    assert "4 images" in text


def test_nothing_is_overwritten(capsys, tmp_path, sequence):
    run(capsys, sequence, "--out", tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert "out is not empty" in refused(capsys, sequence, "--out", tmp_path / "out")
    assert "v_wall is not empty" in refused(capsys, sequence, "--out", sequence)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("kind", ["sequences", "photographs"])
@pytest.mark.parametrize("other", ["the same", "relative", "below", "link"])
@pytest.mark.parametrize("is_first", [True, False])
def test_images_given_twice_are_refused(
    capsys, tmp_path, monkeypatch, sequence, photographs, kind, other, is_first
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / kind)
    inner = sequence if kind == "sequences" else photographs / "sub"
    again = {"the same": tmp_path / kind, "relative": f"./{kind}", "below": inner, "link": "link"}[other]
    folders = [again, tmp_path / kind] if is_first else [tmp_path / kind, again]
    warp = ["--warp"] if kind == "photographs" else []
    error = refused(capsys, *warp, *folders, "--out", tmp_path / "out")
    name = {"sequences": "1.png", "photographs": "b.png" if other == "below" else "a.jpg"}[kind]
    assert name in error
    assert ("is given twice" if other in ("the same", "below") else "are the same file") in error
    assert not (tmp_path / "out").exists()


def test_a_linked_photograph_is_refused_and_a_copy_is_not(capsys, tmp_path, photographs):
    (photographs / "copy.jpg").write_bytes((photographs / "a.jpg").read_bytes())
    assert run(capsys, "--warp", photographs, "--views", 1, "--out", tmp_path / "out")[0] == 0
    (photographs / "z.jpg").symlink_to(photographs / "a.jpg")
    error = refused(capsys, "--warp", photographs, "--out", tmp_path / "other")
    assert f"{photographs}/z.jpg and {photographs}/a.jpg are the same file" in error


def test_sequences_with_a_common_image_are_refused(capsys, tmp_path, sequence):
    other = sequence.parent / "v_other"
    other.mkdir()
    for name, target in (("1.png", "2.png"), ("2.png", "1.png")):
        (other / name).symlink_to(sequence / target)
    np.savetxt(other / "H_1_2", np.linalg.inv(np.loadtxt(sequence / "H_1_2")))
    assert "are the same file" in refused(capsys, sequence.parent, "--out", tmp_path / "out")


def test_folders_with_nothing(capsys, tmp_path, photographs):
    (tmp_path / "empty").mkdir()
    out = ["--out", tmp_path / "out"]
    assert "no images in" in refused(capsys, "--warp", tmp_path / "empty", *out)
    assert "no sequences in" in refused(capsys, tmp_path / "empty", *out)
    assert "no sequences in" in refused(capsys, photographs, *out)
    assert "no folder" in refused(capsys, tmp_path / "none", *out)
    assert "none" in refused(capsys, "--warp", tmp_path / "none", *out)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "3"], "--views is for --warp"),
        (["--warp", "--views", "0"], "--views 0: expected 1 to 1000"),
        (["--warp", "--views", "100000"], "--views 100000: expected 1 to 1000"),
        (["--patches-per-image", "0"], "--patches-per-image 0: expected at least 1"),
        (["--region", "0"], "--region 0.0: expected 0.5 to 100 sizes"),
        (["--region", "nan"], "--region nan: expected 0.5 to 100 sizes"),
        (["--min-size", "-1"], "--min-size -1.0: expected a positive number"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
    ],
)
def test_options_out_of_range(capsys, tmp_path, sequence, options, message):
    error = refused(capsys, sequence, *options, "--out", tmp_path / "out")
    assert error.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("flat", "no patches: no keypoints were found in the image"),
        ("far", "within the first image and a view: check the sizes of the images, and the homographies"),
        ("pixel", "within the first image and a view: check the sizes of the images, and the homographies"),
        ("small", "no keypoint in the image has the least size of 5000 pixels"),
        ("no homography", "v_wall has 2.png, but no homography H_1_2"),
    ],
)
@pytest.mark.parametrize("parent", [True, False])
def test_no_patches_have_a_reason(capsys, tmp_path, sequence, damage, message, parent):
    options = ["--min-size", "5000"] if damage == "small" else []
    if damage == "flat":
        Image.new("L", (200, 200), 7).save(sequence / "1.png")
    elif damage == "far":
        np.savetxt(sequence / "H_1_2", [[1, 0, 9000], [0, 1, 0], [0, 0, 1]])
    elif damage == "pixel":
        Image.new("L", (1, 1), 7).save(sequence / "2.png")
    elif damage == "no homography":
        (sequence / "H_1_2").unlink()
    error = refused(capsys, sequence.parent if parent else sequence, *options, "--out", tmp_path / "out")
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["singular", "text", "image"])
def test_broken_sequences(capsys, tmp_path, sequence, damage):
    if damage == "singular":
        np.savetxt(sequence / "H_1_2", np.ones((3, 3)))
    elif damage == "text":
        (sequence / "H_1_2").write_text("one two three")
    else:
        (sequence / "2.png").write_bytes(b"no image")
    assert str(sequence) in refused(capsys, sequence, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
