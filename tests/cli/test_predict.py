"""``predict``: lines, images, one JSON-lines file, and an exit status that tells of what was skipped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite import create_model

MODEL = ("--model", "ssd320_hardnet39ds", "--weights", "bccd", "--score", "0.01")


@pytest.fixture
def images(tmp_path):
    random = np.random.default_rng(0)
    for name in ("one/a.png", "two/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_a_folder_is_drawn_and_listed(cli, images, tmp_path):
    status, out, err = cli("predict", images, *MODEL, "--out", tmp_path / "out")
    assert (status, err) == (0, "")
    assert f"{images / 'one/a.png'}: " in out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a.jpg",
        "a_2.jpg",
        "predictions.jsonl",
    ]
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [str(images / name) for name in ("one/a.png", "two/a.png")]
    assert cli("predict", images / "one/a.png", *MODEL, "--out", tmp_path / "out")[0] == 0
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2  # one is replaced


@pytest.mark.parametrize("precision", ["float32", "bf16", "auto"])
def test_what_it_computes_in(cli, images, precision):
    image, expected = images / "one/a.png", {}
    for name, option in (("float32", []), ("bf16", ["--bf16"])):
        status, out, err = cli("predict", image, *MODEL, *option)
        assert (status, err) == (0, "")
        expected[name] = out
    status, out, err = cli("predict", image, *MODEL, "--precision", precision)
    assert (status, err) == (0, "")
    if precision == "auto":
        first, out = out.split("\n", 1)
        said = re.fullmatch(
            r"precision: (\w+) \(a pass of 1×3×320×320 takes .+s in float32, .+s in bf16\)", first
        )
        assert out == expected[said[1]]
    else:
        assert out == expected[precision]


def test_no_image_is_drawn_over_another(cli, images, tmp_path):
    for name in ("three/a_2.png", "three/A.png", "two/a.bmp"):
        (images / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(images / name)
    assert cli("predict", images, *MODEL, "--out", tmp_path / "out")[0] == 0
    stems = {path.stem.casefold() for path in (tmp_path / "out").glob("*.jpg")}
    assert len(stems) == 5


def test_an_earlier_runs_lines_stay_where_nothing_new_comes(cli, images, tmp_path):
    out = tmp_path / "out"
    assert cli("predict", images / "one/a.png", *MODEL, "--out", out)[0] == 0
    before = (out / "predictions.jsonl").read_text()
    assert cli("predict", images / "none.png", *MODEL, "--out", out)[0] == 2
    assert cli("predict", images, "--model", "vgg", "--out", out)[0] == 2
    assert (out / "predictions.jsonl").read_text() == before


def test_drawings_within_the_images_folder_are_not_predicted(cli, images):
    for source, out in ((images, images / "out"), (f"{images}/one/*", images / "one")):
        runs = []
        for _ in range(3):
            status, text, err = cli("predict", source, *MODEL, "--out", out)
            assert (status, err) == (0, "")
            runs.append((text, sorted(path.name for path in out.iterdir())))
        assert runs[1] == runs[0]
        assert runs[2] == runs[0]


def test_three_runs_leave_three_drawings_and_three_lines(cli, images, tmp_path):
    for name in ("one/a.png", "two/a.png", "three/b.png"):
        (images / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(images / name)
        assert cli("predict", images / name, *MODEL, "--out", tmp_path / "out")[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines()]
    assert [row["drawing"] for row in rows] == ["a.jpg", "a_2.jpg", "b.jpg"]
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"a.jpg", "a_2.jpg", "b.jpg"}


def test_an_image_given_twice_is_drawn_once_and_counted_once(cli, images, tmp_path):
    given = [images / "one/a.png", images / "one/../one/a.png", images / "two"]
    status, text, _ = cli("predict", *given, *MODEL, "--out", tmp_path / "out")
    rows = (tmp_path / "out/predictions.jsonl").read_text().splitlines()
    assert (status, len(rows), len([*(tmp_path / "out").glob("*.jpg")])) == (0, 2, 2)
    assert text.splitlines()[-1] == f"2 images: {tmp_path / 'out'}"
    status, text, _ = cli("predict", *given, *MODEL, "--out", tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert text.splitlines()[-1] == f"3 images: {tmp_path / 'out.jsonl'}"


def test_predictions_of_another_program_are_refused_before_anything_runs(error_of, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.jsonl").write_text('{"img": "a.png"}\n')
    message = error_of("predict", images, "--model", "hardnet68", "--out", tmp_path / "out")
    assert "predictions.jsonl, line 1: expected a line that predict wrote" in message
    assert (tmp_path / "out/predictions.jsonl").read_text() == '{"img": "a.png"}\n'


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_are_not_utf8(images, tmp_path, encoding):
    names = [b"caf\xe9.png", "犬.png".encode()]
    for name in names:
        try:
            Image.new("RGB", (20, 20)).save(images / os.fsdecode(name))
        except OSError:
            pytest.skip("this file system has no such names")
    command = [sys.executable, "-c", "from hardnet_suite.cli import main; raise SystemExit(main())"]
    arguments = ["predict", str(images), *MODEL, "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONIOENCODING": f"{encoding}:strict"}
    result = subprocess.run([*command, *arguments], capture_output=True, env=environment)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"4 images: " in result.stdout
    rows = [json.loads(line) for line in (tmp_path / "out/predictions.jsonl").read_text("ascii").splitlines()]
    assert {os.fsencode(row["name"]).rpartition(b"/")[2] for row in rows} == {b"a.png", *names}


def test_progress_shows_on_a_terminal(cli, images, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = cli("predict", images, *MODEL)
    assert status == 0
    assert "2/2" in err
    assert len(out.splitlines()) == 3
    assert "1/1" not in cli("predict", images / "one/a.png", *MODEL)[2]  # one image needs none


def test_a_reader_that_has_enough(images):
    """``predict … | head -0``."""
    command = [sys.executable, "-c", "from hardnet_suite.cli import main; raise SystemExit(main())"]
    arguments = ["predict", *[str(images)] * 3, *MODEL]
    running = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    err = running.stderr.read().decode()
    assert running.wait() == 1
    assert "BrokenPipe" not in err


def test_images_stay_whole_where_drawings_go_beside_them(cli, error_of, images):
    folder = images / "one"
    Image.new("RGB", (20, 20), "red").save(folder / "a.jpg")
    before = (folder / "a.jpg").read_bytes()
    assert cli("predict", folder / "a.jpg", folder / "a.png", *MODEL, "--out", folder)[0] == 0
    assert (folder / "a.jpg").read_bytes() == before
    assert "is the folder of the images" in error_of("predict", folder, *MODEL, "--out", folder)
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert [row["drawing"] for row in rows] == ["a_2.jpg", "a_3.jpg"]
    assert cli("predict", folder / "a.png", *MODEL, "--out", folder)[0] == 0  # an earlier run's may go
    assert sorted(path.name for path in folder.glob("*.jpg")) == ["a.jpg", "a_2.jpg", "a_3.jpg"]


def test_guesses_of_a_classifier_and_a_mask(cli, images, tmp_path):
    network = create_model("hardnet39ds", num_classes=6)
    torch.save(network.state_dict(), tmp_path / "six.pth")
    image = images / "one/a.png"
    status, out, _ = cli("predict", image, "--model", tmp_path / "six.pth", "--out", tmp_path / "out")
    assert status == 0
    line = next(line for line in out.splitlines() if line.startswith(f"{image}: "))
    row = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    wanted = [f"{name} {100 * score:.1f} %" for name, score in zip(row["names"], row["scores"], strict=True)]
    assert line == f"{image}: {', '.join(wanted)}"
    assert len(row["names"]) == 5
    arguments = ("--model", "fchardnet70", "--weights", "camvid", "--out", tmp_path / "out")
    assert cli("predict", image, *arguments)[0] == 0
    row = json.loads((tmp_path / "out/predictions.jsonl").read_text())
    assert row["mask"] == "a_mask.png"
    assert Image.open(tmp_path / "out/a_mask.png").size == (80, 60)


def test_a_bad_file_is_skipped_and_the_status_says_so(cli, error_of, images):
    (images / "one/b.png").write_text("no image")
    status, out, err = cli("predict", images, *MODEL)
    assert status == 1
    assert out.count(".png: ") == 2
    assert err.startswith(f"skipped: cannot read the image {images / 'one/b.png'}")
    assert "b.png" in error_of("predict", images / "one/b.png", *MODEL)
    status, _, err = cli("predict", images / "one/b.png", images / "none.png", *MODEL)
    assert status == 1
    assert err.count("skipped: ") == 2


def test_bad_arguments(error_of, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path / "mine"))
    monkeypatch.setattr("socket.create_connection", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    message = error_of("predict", images, "--model", "hardnet68")
    assert f"put the file by hand into {tmp_path / 'mine'}" in message
    assert "hardnet68-5d684880.pth" in message
    assert "--top 0" in error_of("predict", images, *MODEL, "--top", "0")
    assert "is not a model" in error_of("predict", images, "--model", "vgg", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert error_of("predict", images, "--model", "a.safetensors").endswith(
        "a.safetensors: no such file or folder\n"
    )
    message = error_of("predict", images, "--model", "ssd320_hardnet39ds")
    assert "ssd320_hardnet39ds has no published weights; available: bccd; or give a file" in message
    (tmp_path / "file").touch()
    assert "cannot write into" in error_of("predict", images, *MODEL, "--out", tmp_path / "file/out")
    assert "--device tpu is unknown" in error_of("predict", images, *MODEL, "--device", "tpu")


def test_a_config_of_ones_own_is_said_to_run(cli, images, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(
        f"_base_ = 'hardnet39ds_tiny_imagenet10.py'\n__import__('pathlib').Path({str(ran)!r}).touch()\n"
    )
    status, _, err = cli("predict", images / "one/a.png", "--model", tmp_path / "mine.py")
    assert (status, ran.exists()) == (0, True)
    assert err == f"config: {tmp_path / 'mine.py'}, which runs as a program\n"
    assert "runs as a program" not in cli("predict", images / "one/a.png", *MODEL)[2]


def test_the_first_line_names_the_weights_the_last_the_files(cli, images, tmp_path):
    image = images / "one/a.png"
    lines = cli("predict", image, *MODEL, "--out", tmp_path / "out")[1].splitlines()
    assert (
        lines[0] == "weights: ssd320_hardnet39ds_bccd.safetensors, the weights 'bccd' of ssd320_hardnet39ds"
    )
    assert lines[1].startswith(f"{image}: ")
    assert lines[2:] == [f"1 image: {tmp_path / 'out'}"]
    network = create_model("hardnet39ds", num_classes=6)
    for name in ("epoch_1.pth", "best_top1_epoch_1.pth"):
        (tmp_path / "run").mkdir(exist_ok=True)
        torch.save(network.state_dict(), tmp_path / "run" / name)
    folder = f"{tmp_path / 'run'}{os.sep}"
    lines = cli("predict", image, "--model", folder)[1].splitlines()
    assert lines[0].startswith(f"weights: {tmp_path / 'run'}{os.sep}")
    assert "of the run" in lines[0]
    file = tmp_path / "run/epoch_1.pth"
    assert cli("predict", image, "--model", file)[1].splitlines()[0] == f"weights: {file}"


@pytest.mark.parametrize("name", ["result.jpg", "new/result.PNG"])
def test_one_image_into_one_file(cli, error_of, images, tmp_path, name):
    out, image = tmp_path / name, images / "one/a.png"
    for _ in range(2):
        status, text, err = cli("predict", image, *MODEL, "--out", out)
        assert (status, err) == (0, "")
        assert text.splitlines()[-1] == f"1 image: {out}"
        assert Image.open(out).size == (80, 60)
        assert os.listdir(out.parent) == [out.name] if "new" in name else True
    before = image.read_bytes()
    (tmp_path / "clip.mp4").touch()
    message = error_of("predict", image, *MODEL, "--out", image)
    assert "a.png exists, and no earlier prediction wrote it" in message
    assert image.read_bytes() == before
    for sources, words in (
        ([images], "2 images"),
        ([image, image], "2 images"),
        (["camera:0"], "a video, camera or tar file"),
        ([tmp_path / "clip.mp4"], "a video, camera or tar file"),
    ):
        message = error_of("predict", *sources, *MODEL, "--out", out)
        assert f"is one image, got {words}: give a folder" in message
    for other in ("a.webp", "a.avi", "a.TIF"):
        message = error_of("predict", image, *MODEL, "--out", tmp_path / other)
        assert "a folder, or a file .jpg, .png, of a video .mp4, of predict --out also .jsonl" in message


@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        ("--model", "fchardnet70", "--weights", "camvid"),
        ("--model", "hardnet39ds", "--weights", "tiny_imagenet10"),
    ],
)
def test_a_video_into_a_video(cli, error_of, images, tmp_path, model):
    import cv2

    source, out = tmp_path / "in.avi", tmp_path / "out.mp4"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 7, (96, 64))
    for shade in range(5):
        writer.write(np.full((64, 96, 3), 40 * shade, np.uint8))
    writer.release()
    status, text, err = cli("predict", source, *model, "--out", out)
    assert (status, err) == (0, "")
    assert len(text.splitlines()) == 2
    assert text.splitlines()[-1] == f"5 frames: {out}"
    capture = cv2.VideoCapture(str(out))
    assert [capture.get(key) for key in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)] == [7, 5]
    frames = [capture.read()[1] for _ in range(5)]
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    for sources in ([images], [images / "one/a.png"], [source, source]):
        assert "is for the frames of one video" in error_of("predict", *sources, *model, "--out", out)
    before = out.read_bytes()
    assert "is the image itself" in error_of("predict", out, *model, "--out", out)
    assert "breaks" not in error_of("predict", tmp_path / "none.mp4", *model, "--out", out)
    assert out.read_bytes() == before


def test_arguments_in_the_wrong_places(error_of, images):
    image = images / "one/a.png"
    message = error_of("predict", "ssd320_hardnet39ds", "--model", image)
    assert f"{image} is an image or video, expected a model" in message


def test_masks_are_in_colour_and_score_as_before(cli, tmp_path):
    """A saved mask is read back by ``eval`` as its class indices."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = ("--model", "fchardnet70", "--weights", "camvid", "--out", tmp_path / "out")
    assert cli("predict", tmp_path / "a.png", *arguments)[0] == 0
    with Image.open(tmp_path / "out/a_mask.png") as image:
        assert image.mode == "P"
        values = np.asarray(image)
    for folder in ("labels", "grey", "colour"):
        (tmp_path / folder).mkdir()
    truth = np.where(random.random(values.shape) < 0.8, values, 0).astype(np.uint8)
    Image.fromarray(truth).save(tmp_path / "labels/a.png")
    Image.fromarray(values).save(tmp_path / "grey/a.png")
    (tmp_path / "out/a_mask.png").rename(tmp_path / "colour/a.png")
    options = ("--annotations", tmp_path / "labels", "--dataset", "camvid")
    grey, colour = (
        cli("eval", "segmentation", "--predictions", tmp_path / name, *options) for name in ("grey", "colour")
    )
    assert grey == colour
    assert grey[0] == 0
