from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from drawn_collection import drawn_views, save_collection
from PIL import Image

from hardnet_suite import create_model
from hardnet_suite.cli import main
from hardnet_suite.errors import UserError

pytest.importorskip("faiss")


def save_weights(path, seed) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(create_model("hardnet_descriptor").state_dict(), path)
    return str(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with scenes, views, weights, and index.safetensors of five scenes; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    save_collection(folder / "scenes")
    (folder / "views").mkdir()
    for number, view in enumerate(drawn_views()):
        Image.fromarray(view).save(folder / "views" / f"view_{number}.png")
    save_weights(folder / "w.pth", 0)
    save_weights(folder / "other.pth", 1)
    scenes = [str(folder / "scenes" / f"scene_{number}.png") for number in range(5)]
    index = str(folder / "index.safetensors")
    assert main(["index", *scenes, "--out", index, "--weights", str(folder / "w.pth"), "--top-k", "60"]) == 0
    return folder


def search(made, *arguments) -> int:
    index, weights = made / "index.safetensors", made / "w.pth"
    return main(["search", *map(str, [index, *arguments, "--weights", weights])])


def test_images_are_indexed_added_and_told(made, tmp_path, capsys):
    out, weights = tmp_path / "i.safetensors", str(made / "w.pth")
    Image.new("L", (80, 60), 90).save(tmp_path / "flat.png")
    (tmp_path / "bad.jpg").write_text("no image")
    scenes = [str(made / "scenes" / f"scene_{number}.png") for number in range(2)]
    command = ["index", *scenes, str(tmp_path), "--out", str(out), "--weights", weights, "--top-k", "40"]
    assert (
        main([*command, "--method", "bow", "--words", "20"]) == 1
    )  # as predict and search, with images skipped
    captured = capsys.readouterr()
    assert f"weights: {weights}" in captured.out
    assert "2 images added, 2 skipped, 2 in all, bow of 20 words" in captured.out
    assert "flat.png has no keypoints" in captured.err
    assert "bad.jpg" in captured.err
    more = str(made / "scenes" / "scene_2.png")
    assert main(["index", more, scenes[0], "--out", str(out), "--weights", weights, "--add"]) == 0
    assert "2 images added, 4 in all, bow of 20 words" in capsys.readouterr().out
    assert main(["search", str(out), more, "--weights", weights, "--top", "1"]) == 0
    assert "scene_2.png" in capsys.readouterr().out.splitlines()[-1]
    (tmp_path / "bad.jpg").unlink()
    assert main(command) == 1  # over its own result
    assert "vlad" in capsys.readouterr().out


def test_images_skipped_while_adding_are_in_the_exit_status(made, tmp_path):
    out, weights = str(tmp_path / "i.safetensors"), str(made / "w.pth")
    scenes = [str(made / "scenes" / f"scene_{number}.png") for number in range(3)]
    (tmp_path / "bad.jpg").write_text("no image")
    assert main(["index", *scenes[:2], "--out", out, "--weights", weights, "--top-k", "40"]) == 0
    add = ["--out", out, "--weights", weights, "--add"]
    assert main(["index", scenes[2], str(tmp_path / "bad.jpg"), *add]) == 1
    assert main(["index", scenes[2], *add]) == 0
    assert main(["index", str(tmp_path / "bad.jpg"), *add]) == 2


def test_a_search_prints_and_draws(made, tmp_path, capsys):
    out = tmp_path / "sheet.jpg"
    views = [made / "views" / f"view_{number}.png" for number in range(2)]
    assert search(made, *views, "--top", "3", "--verify", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "5 images, vlad" in printed
    lines = [line.split() for line in printed.splitlines() if "inliers" in line]
    assert len(lines) == 6
    assert lines[0][0] == "1"
    assert lines[0][-1].endswith("scene_0.png")
    with Image.open(out) as sheet:
        assert sheet.width > 4 * 200
        assert sheet.height > 2 * 200
    assert search(made, views[0], "--out", out) == 0  # over its own


def test_rankings_are_scored(made, tmp_path, capsys):
    truth = tmp_path / "truth"
    truth.mkdir()
    for number in range(2):
        (truth / f"q{number}_query.txt").write_text(f"oxc1_view_{number} 10.5 10 190 250\n")
        (truth / f"q{number}_good.txt").write_text(f"scene_{number}\n")
        for kind in ("ok", "junk"):
            (truth / f"q{number}_{kind}.txt").write_text("")
    ranked, out = tmp_path / "ranked", tmp_path / "scores.json"
    for _ in range(2):  # the second time over its own
        assert search(made, made / "views", "--ground-truth", truth, "--ranked", ranked, "--verify") == 0
    assert sorted(path.name for path in ranked.glob("*.txt")) == ["q0.txt", "q1.txt"]
    assert len((ranked / "q0.txt").read_text().splitlines()) == 5
    capsys.readouterr()
    assert main(["eval", "retrieval", str(ranked), "--ground-truth", str(truth), "--out", str(out)]) == 0
    assert "mAP" in capsys.readouterr().out
    content = json.loads(out.read_text())
    assert content["metrics"]["mAP"] == np.mean([content["per_query"][f"q{number}"] for number in range(2)])
    assert content["per_query"]["q0"] == 1
    command = made / "views", "--ground-truth", truth, "--ranked", ranked
    first = (ranked / "q0.txt").read_text().splitlines()[0]
    for own in ("my notes\n", f"{first}\n", ""):  # names of the index may be a person's list
        (ranked / "q0.txt").write_text(own)
        assert search(made, *command) == 2
        assert "q0.txt exists, and no earlier search wrote it" in capsys.readouterr().err
        assert (ranked / "q0.txt").read_text() == own
    (truth / "q0_query.txt").write_text("view_0 500 500 600 600")
    (ranked / "q0.txt").unlink()
    assert search(made, *command) == 1
    assert "lies outside the image of 200×200" in capsys.readouterr().err
    (truth / "q0_query.txt").write_text("view_77 0 0 10 10")
    assert search(made, *command) == 2
    assert "expected one image named view_77, none" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["twice", "folders", "suffixes"])
def test_an_index_with_two_images_of_a_name_is_not_ranked(made, tmp_path, form, capsys):
    scene, index = made / "scenes" / "scene_0.png", str(tmp_path / "i.safetensors")
    other = {"twice": scene, "folders": tmp_path / "scene_0.png", "suffixes": tmp_path / "scene_0.bmp"}[form]
    if form != "twice":
        with Image.open(scene) as image:
            image.save(other)
    weights = ["--weights", str(made / "w.pth")]
    assert main(["index", str(scene), str(other), "--out", index, "--top-k", "40", *weights]) == 0
    assert main(["search", index, str(scene), "--ranked", str(tmp_path / "ranked"), *weights]) == 2
    assert "the index has 2 images named scene_0: " in capsys.readouterr().err
    assert not (tmp_path / "ranked").exists()
    assert main(["search", index, str(scene), *weights]) == 0


@pytest.mark.parametrize("name", ["a\nb", "a\x0bb.png", "a\u2028b", " ", ""])
def test_names_that_no_ranking_can_list(tmp_path, name):
    from hardnet_suite.cli.search import _require_rankings

    with pytest.raises(UserError, match="blank or has a line break"):
        _require_rankings(["query"], tmp_path, ["c.png", name])
    _require_rankings(["query"], tmp_path, ["c.png", "a b.png"])
    _require_rankings(["query"], tmp_path, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png"], "none.png"),
        (["scenes/scene_0.png", "--top", "0"], "--top 0"),
        (["scenes/scene_0.png", "--out", "x.gif"], "expected a file"),
        (["scenes/scene_0.png", "--out", "views/view_0.png"], "no earlier search wrote it"),
        (["scenes/scene_0.png", "scenes/scene_0.png", "--ranked", "r"], "two queries are named scene_0"),
    ],
)
def test_wrong_searches(made, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(made)
    assert search(made, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.npz"], "expected a file *.safetensors"),
        (["--out", "x.safetensors", "--words", "0"], "--words 0"),
        (["--out", "x.safetensors", "--words", "1"], "--words 1: expected at least 2"),
        (["--out", "x.safetensors", "--top-k", "-1"], "--top-k -1"),
        (["--out", "x.safetensors", "--add"], "x.safetensors does not exist"),
        (["--out", "index.safetensors", "--add", "--method", "bow"], "leave out --method"),
        (["--out", "index.safetensors", "--add", "--seed", "0"], "leave out --seed"),
        (["--out", "index.safetensors", "--add", "--weights", "other.pth"], "search with the same weights"),
        (["--out", "other.safetensors"], "no earlier index wrote it"),
        (["--out", "x.safetensors", "--words", "9999"], "too few for 9999 words"),
    ],
)
def test_wrong_indexes(made, monkeypatch, arguments, message, capsys):
    monkeypatch.chdir(made)
    (made / "other.safetensors").write_text("mine")
    weights = [] if "--weights" in arguments else ["--weights", "w.pth"]
    assert main(["index", "scenes/scene_0.png", *arguments, *weights]) == 2
    assert message in capsys.readouterr().err
    assert (made / "other.safetensors").read_text() == "mine"


def test_other_weights_are_one_line(made, capsys):
    query, index = str(made / "scenes" / "scene_0.png"), str(made / "index.safetensors")
    assert main(["search", index, query, "--weights", str(made / "other.pth")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "w.pth" in message
    assert "other.pth" in message


def test_a_query_that_is_skipped_keeps_no_earlier_ranking(made, tmp_path, capsys):
    (tmp_path / "q").mkdir()
    for number, view in enumerate(drawn_views()[:2]):
        Image.fromarray(view).save(tmp_path / "q" / f"q{number}.png")
    assert search(made, tmp_path / "q", "--ranked", tmp_path / "rk") == 0
    assert sorted(path.name for path in (tmp_path / "rk").glob("*.txt")) == ["q0.txt", "q1.txt"]
    Image.new("L", (80, 60), 90).save(tmp_path / "q" / "q1.png")
    assert search(made, tmp_path / "q", "--ranked", tmp_path / "rk") == 1
    assert "q1 has no keypoints" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "rk").glob("*.txt")] == ["q0.txt"]


def test_a_file_that_changed_is_not_drawn(made, tmp_path, capsys):
    scene = tmp_path / "scene.png"
    scene.write_bytes((made / "scenes" / "scene_0.png").read_bytes())
    command = ["--weights", str(made / "w.pth")]
    index = str(tmp_path / "i.safetensors")
    assert main(["index", str(scene), "--out", index, *command, "--top-k", "60"]) == 0
    scene.write_bytes((made / "scenes" / "scene_1.png").read_bytes())
    query = str(made / "scenes" / "scene_0.png")
    assert main(["search", index, query, "--out", str(tmp_path / "sheet.png"), *command]) == 0
    assert "not drawn: " in (err := capsys.readouterr().err)
    assert "scene.png has changed since it was indexed" in err
