from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from drawn_pairs import corner_error, save_pair
from PIL import Image

from hardnet_suite import create_model
from hardnet_suite.cli import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """Random orthogonal filters of HardNet's shape."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(create_model("hardnet_descriptor").state_dict(), path)
    return str(path)


def match(folder, weights, *arguments) -> int:
    a, b = save_pair(folder)
    return main(["match", a, b, "--weights", weights, "--top-k", "60", *map(str, arguments)])


def test_a_pair_is_matched_drawn_and_written(tmp_path, weights, capsys):
    out, report = tmp_path / "new/matches.png", tmp_path / "matches.json"
    assert match(tmp_path, weights, "--out", out, "--json", report) == 0
    printed = capsys.readouterr().out
    assert f"weights: {weights}" in printed
    assert f"{tmp_path / 'a.png'}: 320×320 pixels, 60 keypoints" in printed
    assert "(homography)" in printed
    content = json.loads(report.read_text())
    assert corner_error(np.array(content["matrix"])) < 4
    assert f"{sum(content['inliers'])} inliers of {len(content['matches'])} matches" in printed
    with Image.open(out) as drawing:
        assert drawing.width > 640
    # again, over its own results
    assert match(tmp_path, weights, "--out", out, "--json", report, "--model", "none") == 0
    assert json.loads(report.read_text())["matrix"] is None


def test_keypoints_of_another_detector(tmp_path, weights, capsys):
    keynet = pytest.importorskip("kornia.feature").KeyNet(pretrained=False)
    torch.nn.init.ones_(keynet.last_conv[0].bias)  # a response everywhere
    torch.save({"state_dict": keynet.state_dict()}, tmp_path / "keynet.pth")
    report = tmp_path / "matches.json"
    match(tmp_path, weights, "--keynet", tmp_path / "keynet.pth", "--json", report)
    (first, _) = json.loads(report.read_text())["images"]
    assert len(first["keypoints"]) == 60
    assert set(first["angles"]) == {0}


def test_exports(tmp_path, weights):
    pytest.importorskip("h5py")
    assert match(tmp_path, weights, "--hloc", tmp_path / "hloc", "--colmap", tmp_path / "colmap") == 0
    assert sorted(path.name for path in (tmp_path / "hloc").iterdir()) == [
        "features.h5",
        "hardnet_suite.json",
        "matches.h5",
        "pairs.txt",
    ]
    assert sorted(path.name for path in (tmp_path / "colmap").iterdir()) == [
        "a.png.txt",
        "b.png.txt",
        "hardnet_suite.json",
        "matches.txt",
    ]


@pytest.mark.parametrize("form", ["pixel", "constant"])
def test_nothing_to_match_has_status_1_and_a_line(tmp_path, weights, form, capsys):
    a, _ = save_pair(tmp_path)
    other = tmp_path / "other.png"
    Image.new("L", (1, 1) if form == "pixel" else (80, 60), 90).save(other)
    out = tmp_path / "matches.png"
    status = main(["match", a, str(other), "--weights", weights, "--top-k", "20", "--out", str(out)])
    assert status == 1
    captured = capsys.readouterr()
    assert "0 keypoints" in captured.out
    assert "0 matches, no homography" in captured.out
    assert captured.err == ""
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ratio", "0"], "--ratio 0.0: expected above 0 and at most 1\n"),
        (["--ratio", "7"], "--ratio 7.0: expected above 0 and at most 1\n"),
        (["--ratio", "nan"], "--ratio nan: expected"),
        (["--threshold", "-1"], "--threshold -1.0: expected a positive number of pixels\n"),
        (["--top-k", "0"], "--top-k 0: expected at least 1\n"),
        (["--out", "matches.tif"], "expected a file .png"),
        (["--outliers"], "needs --out"),
        (["--threshold", "5", "--model", "none"], "--threshold is for the inliers of a geometry"),
        (["--outliers", "--out", "m.png", "--model", "none"], "needs --out"),
        (["--weights", "no.pth"], "no.pth"),
        (["--weights", "libertyy"], "did you mean liberty"),
        (["--descriptor", "hardnet68", "--weights", "x.pth"], "hardnet68 is not a patch descriptor"),
        (["--json", "a.png"], "a.png exists"),
        (["--out", "a.png"], "a.png exists"),
        (["--out", "m.png", "--json", "m.png"], "--out and --json are one file, m.png"),
        (["--hloc", "a.png"], "expected a folder"),
        (["--colmap", "a.png"], "expected a folder"),
        (["--affnet", "a.pth"], "are for the keypoints of --keynet"),
        (["--keynet", "no.pth"], "no.pth: no such file"),
        (["--keynet", "k.pth", "--orinet", "o.pth", "--upright"], "exclude each other"),
        (["--keynet", "k.pth", "--affnet", "a.pth", "--upright"], "exclude each other"),
        (["--keynet", "k.pth", "--upright"], "exclude each other"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, weights, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    before = (tmp_path / "a.png").read_bytes()
    assert main(["match", "a.png", "b.png", "--weights", weights, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize("option", ["--hloc", "--colmap"])
@pytest.mark.parametrize(
    ("name", "message"),
    [("a.png", "take matches of two images, got one twice"), ("my b.png", "takes no spaces in names")],
)
def test_names_are_looked_at_before_anything_is_written(
    tmp_path, weights, option, name, message, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    (tmp_path / "my b.png").write_bytes((tmp_path / "b.png").read_bytes())
    options = ["--weights", weights, "--out", "drawing.png", option, "out"]
    assert main(["match", "a.png", name, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not (tmp_path / "drawing.png").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--hloc", "--colmap"])
def test_matches_of_another_pair_are_not_replaced(tmp_path, weights, option, capsys, monkeypatch):
    """Structure from motion takes many pairs in one folder: a second call would lose the first pair."""
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    (tmp_path / "c.png").write_bytes((tmp_path / "b.png").read_bytes())
    common = ["--weights", weights, "--top-k", "50", "--model", "none", option, "out"]
    for images in (["a.png", "b.png"], ["a.png", "b.png"], ["b.png", "a.png"]):
        assert main(["match", *images, *common]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["match", "a.png", "c.png", *common]) == 2
    out, err = capsys.readouterr()
    assert "out holds matches of b.png a.png, which would be lost" in err
    assert out == ""
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("option", ["--hloc", "--colmap"])
def test_files_of_others_are_looked_at_before_anything_is_written(
    tmp_path, weights, option, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("features.h5", "matches.txt"):
        (tmp_path / "out" / name).write_text("of another program")
    assert main(["match", "a.png", "b.png", "--weights", weights, "--out", "drawing.png", option, "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "drawing.png").exists()
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"of another program"}


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--hloc", "pairs.txt"),
        ("--hloc", "hardnet_suite.json"),
        ("--colmap", "matches.txt"),
        ("--colmap", "a.png.txt"),
    ],
)
def test_a_report_in_the_place_of_an_export_is_told_at_once(
    tmp_path, weights, option, name, capsys, monkeypatch
):
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    places = ["--json", f"out/{name}", option, "out"]
    assert main(["match", "a.png", "b.png", "--weights", weights, *places]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: --json and {option} are one file, out/{name}: choose another for one of them\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "message"),
    [("no.png", "no such file"), (".", "expected one image, got several"), ("text.png", "not an image")],
)
def test_images_that_cannot_be_read(tmp_path, weights, image, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pair(tmp_path)
    (tmp_path / "text.png").write_text("words")
    assert main(["match", image, "b.png", "--weights", weights]) == 2
    assert message in capsys.readouterr().err


def test_a_drawing_is_no_image_to_match_and_to_replace(tmp_path, weights, capsys):
    out = tmp_path / "matches.png"
    assert match(tmp_path, weights, "--out", out) == 0
    assert main(["match", str(out), str(tmp_path / "b.png"), "--weights", weights, "--out", str(out)]) == 2
    assert "is one of the images" in capsys.readouterr().err


@pytest.mark.parametrize(("ratio", "count"), [("1", 1), ("0.99", 0)])
def test_a_ratio_of_one_is_no_test(tmp_path, weights, ratio, count, capsys):
    """A single descriptor has no second nearest."""
    options = ["--top-k", "1", "--ratio", ratio, "--model", "none"]
    image = save_pair(tmp_path)[0]
    assert main(["match", image, image, "--weights", weights, *options]) == (0 if count else 1)
    assert f"{count} match" in capsys.readouterr().out


def strip(path, count: int = 3, side: int = 65, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (count * side, side), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels.reshape(count, side, side)


def expected(weights: str, patches: np.ndarray) -> np.ndarray:
    from hardnet_suite.matching import describe

    return describe(create_model("hardnet_descriptor", pretrained=weights), patches)


def test_a_strip_is_described(tmp_path, weights, capsys):
    patches = strip(tmp_path / "ref.png")
    out = tmp_path / "new/out.npz"
    for _ in range(2):  # over its own result, too
        assert main(["describe", str(tmp_path / "ref.png"), str(out), "--weights", weights]) == 0
    assert "3 descriptors of 128 numbers" in capsys.readouterr().out
    descriptors = np.load(out)["descriptors"]
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors, expected(weights, patches), atol=1e-6)


def test_a_text_is_as_the_originals(tmp_path, weights):
    """numpy.savetxt(…, delimiter=" ", fmt="%10.5f"), a row per patch."""
    patches = strip(tmp_path / "ref.png")
    out = tmp_path / "out.txt"
    for _ in range(2):
        assert main(["describe", str(tmp_path / "ref.png"), str(out), "--weights", weights]) == 0
    lines = out.read_text().splitlines()
    assert [len(line) for line in lines] == [128 * 10 + 127] * 3
    np.testing.assert_allclose(np.loadtxt(out), expected(weights, patches), atol=6e-6)


@pytest.mark.parametrize("given", ["root", "sequence"])
def test_folders_of_strips_are_described(tmp_path, weights, given):
    names = ["ref", *(f"{level}{number}" for level in "eht" for number in range(1, 6))]
    for sequence in ("i_one", "v_two") if given == "root" else ("i_one",):
        for seed, name in enumerate(names):
            strip(tmp_path / "root" / sequence / f"{name}.png", seed=seed)
    folder = tmp_path / "root" if given == "root" else tmp_path / "root/i_one"
    out = tmp_path / "descriptors"
    assert main(["describe", str(folder), str(out), "--weights", weights]) == 0
    assert {path.stem for path in (out / "i_one").glob("*.npz")} == set(names)
    assert (out / "v_two").exists() == (given == "root")
    patches = strip(tmp_path / "copy.png", seed=3)
    found = np.load(out / f"i_one/{names[3]}.npz")["descriptors"]
    np.testing.assert_allclose(found, expected(weights, patches), atol=1e-6)


def test_what_cannot_be_described(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strip(tmp_path / "ref.png")
    Image.new("L", (65, 100)).save("odd.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.npz").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine")
    np.savez("other.npz", descriptors=np.zeros((1, 2)))
    strip(tmp_path / "damaged/ref.png")
    cases = {
        ("ref.png", "out.csv"): "expected a file .npz or .txt",
        ("odd.png", "out.npz"): "odd.png",
        ("no.png", "out.npz"): "no such file",
        ("empty", "out"): "no strips in empty",
        ("damaged", "out"): "damaged",
        ("damaged", "out.npz"): "expected a folder",
        ("ref.png", "notes.npz"): "notes.npz exists",
        ("ref.png", "notes.txt"): "notes.txt exists",
        ("ref.png", "other.npz"): "other.npz exists",
    }
    for (source, out), message in cases.items():
        assert main(["describe", source, out, "--weights", weights]) == 2, source
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert (tmp_path / "notes.npz").read_text() == "mine"
    assert not (tmp_path / "out.npz").exists()


def test_bf16_has_an_effect(tmp_path, weights):
    strip(tmp_path / "ref.png")
    for name, options in (("single.npz", []), ("half.npz", ["--bf16"])):
        arguments = [str(tmp_path / "ref.png"), str(tmp_path / name), "--weights", weights, *options]
        assert main(["describe", *arguments]) == 0
    single, half = (np.load(tmp_path / name)["descriptors"] for name in ("single.npz", "half.npz"))
    assert not np.array_equal(single, half)
    assert (single * half).sum(1).min() > 0.99


def test_help_is_light_and_complete(capsys):
    for command in ("match", "describe"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--weights" in capsys.readouterr().out
