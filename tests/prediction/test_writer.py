"""A folder of predictions: one line per drawing, whatever was there before and whatever interrupts."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.sources import drawn_in, images_of
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import Prediction, PredictionWriter, writer

TASKS = ("classification", "detection", "segmentation")


def image_file(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), color).save(path)
    return path


def prediction_of(source, task="detection", score=0.5, **more) -> Prediction:
    (image,) = images_of(source)
    image = replace(image, **more)
    return Prediction(
        name=image.name,
        task=task,
        size=(24, 16),
        labels=np.array([0]),
        names=("cat",),
        scores=np.array([score]),
        boxes=np.array([[1.0, 2.0, 20.0, 12.0]]) if task == "detection" else None,
        mask=np.zeros((16, 24), np.uint8) if task == "segmentation" else None,
        classes=("cat", "dog"),
        palette=((255, 0, 0), (0, 255, 0)) if task == "segmentation" else None,
        source=image,
    )


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text("ascii").splitlines()]


def files_of(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {"predictions.jsonl"}


def require_exact(folder: Path, foreign=()) -> None:
    """Every file is named by exactly one line, and every line's files exist."""
    named = [row[key] for row in rows_of(folder) for key in ("drawing", "mask") if key in row]
    assert len(named) == len(set(named))
    assert set(named) == files_of(folder) - set(foreign)
    assert drawn_in(folder) == set(named)


@pytest.mark.parametrize("task", TASKS)
def test_three_runs_leave_three_drawings_and_three_lines(tmp_path, task):
    for index in range(3):
        path = image_file(tmp_path / f"in/{index}.png")
        assert prediction_of(path, task).save(tmp_path / "out") == tmp_path / f"out/{index}.jpg"
    assert [row["drawing"] for row in rows_of(tmp_path / "out")] == ["0.jpg", "1.jpg", "2.jpg"]
    require_exact(tmp_path / "out")


@pytest.mark.parametrize("first", TASKS)
@pytest.mark.parametrize("second", TASKS)
def test_the_same_image_replaces_its_line_its_drawing_and_its_mask(tmp_path, monkeypatch, first, second):
    out = tmp_path / "out"
    for name in "abc":
        prediction_of(image_file(tmp_path / f"{name}.png"), first).save(out)
    drawing = (out / "b.jpg").read_bytes()
    image_file(tmp_path / "b.png", "blue")
    monkeypatch.chdir(tmp_path)
    assert prediction_of("b.png", second, score=0.25).save(out).name == "b.jpg"  # one absolute path
    assert [(row["drawing"], row["task"]) for row in rows_of(out)] == [
        ("a.jpg", first),
        ("b.jpg", second),
        ("c.jpg", first),
    ]
    assert (out / "b.jpg").read_bytes() != drawing
    require_exact(out)


def test_a_repeated_run_changes_nothing(tmp_path):
    predictions = [prediction_of(image_file(tmp_path / f"{name}/x.png")) for name in "abc"]
    states = []
    for _ in range(3):
        folder = PredictionWriter(tmp_path / "out")
        for prediction in predictions:
            folder.write(prediction)
        states.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert states[0] == states[1] == states[2]
    assert [row["drawing"] for row in rows_of(tmp_path / "out")] == ["x.jpg", "x_2.jpg", "x_3.jpg"]


@pytest.mark.parametrize("again", [False, True])
def test_equal_stems_get_free_names(tmp_path, again):
    names = ["a/x.png", "b/x.jpg", "c/X.bmp", "d/x_2.png", "e/x.webp", "f/caf\u00e9.png", "f/cafe\u0301.png"]
    sources = [image_file(tmp_path / name) for name in names]
    for task in TASKS[: 1 + again]:
        folder = PredictionWriter(tmp_path / "out")
        for source in sources:
            folder.write(prediction_of(source, task))
    assert len({writer._key(row["drawing"]) for row in rows_of(tmp_path / "out")}) == len(names)
    assert [row["name"] for row in rows_of(tmp_path / "out")] == [str(source) for source in sources]
    require_exact(tmp_path / "out")


@pytest.mark.parametrize("foreign", ["a.jpg", "A.JPG", "a_mask.png", "A_Mask.png"])
@pytest.mark.parametrize("when", ["before", "meanwhile", "between"])
def test_files_of_others_are_never_overwritten(tmp_path, foreign, when):
    out, source = tmp_path / "out", image_file(tmp_path / "in/a.png")
    folder = PredictionWriter(out)
    if when == "between":
        folder.write(prediction_of(source, "detection"))
        if (out / foreign).exists() or foreign == "A.JPG":
            pytest.skip("the file is the suite's")
    out.mkdir(exist_ok=True)
    (out / foreign).write_text("mine")
    folder = folder if when == "meanwhile" else PredictionWriter(out)
    drawing = folder.write(prediction_of(source, "segmentation"))
    assert (out / foreign).read_text() == "mine"
    if when != "meanwhile" or foreign.startswith("a"):
        assert drawing.name == "a_2.jpg"
    require_exact(out, foreign=[foreign])


def test_an_image_is_never_overwritten(tmp_path):
    source = image_file(tmp_path / "a.jpg")
    before = source.read_bytes()
    for task in (*TASKS, *TASKS):
        assert prediction_of(source, task).save(tmp_path).name == "a_2.jpg"
    with pytest.raises(UserError, match=r"a\.jpg is the image itself"):
        prediction_of(source).save(tmp_path, "a")
    drawing = tmp_path / "a_2.jpg"  # a drawing that is predicted itself
    before_drawing = drawing.read_bytes()
    assert prediction_of(drawing).save(tmp_path).name == "a_2_2.jpg"
    assert (source.read_bytes(), drawing.read_bytes()) == (before, before_drawing)
    mask = image_file(tmp_path / "b_mask.png")
    with pytest.raises(UserError, match="is the image itself"):
        prediction_of(mask, "segmentation").save(tmp_path, "b")
    require_exact(tmp_path, foreign=["a.jpg", "b_mask.png"])


@pytest.mark.skipif(not hasattr(os, "link"), reason="hard links")
def test_a_drawing_that_became_the_image_is_kept(tmp_path):
    source = image_file(tmp_path / "a.png")
    drawing = prediction_of(source).save(tmp_path / "out")
    source.unlink()
    os.link(drawing, source)
    before = source.read_bytes()
    assert prediction_of(source).save(tmp_path / "out") != drawing
    assert source.read_bytes() == before


def test_a_given_stem(tmp_path):
    out = tmp_path / "out"
    a, b = (image_file(tmp_path / f"{name}.png") for name in "ab")
    prediction_of(a, "segmentation").save(out, "one")
    prediction_of(a).save(out, "two")
    assert len(rows_of(out)) == 2
    prediction_of(b).save(out, "One")  # one file where case does not count
    assert [(row["drawing"], row["name"]) for row in rows_of(out)] == [
        ("One.jpg", str(b)),
        ("two.jpg", str(a)),
    ]
    require_exact(out)
    for stem in ("", "deep/x", "../x", "deep\\x", f"{tmp_path}/x"):
        with pytest.raises(ValueError, match="expected the stem of a file name"):
            prediction_of(a).save(out, stem)
    (out / "folder.jpg").mkdir()
    with pytest.raises(UserError, match="it is a folder"):
        prediction_of(a).save(out, "folder")


def test_images_in_memory_and_of_cameras_are_added(tmp_path):
    image = Image.new("RGB", (24, 16))
    predictions = [prediction_of(image), prediction_of(image), prediction_of(image, name="image_3")]
    predictions += [prediction_of(image, name="camera:0#000001", origin="camera")] * 2
    for prediction in predictions:
        prediction.save(tmp_path)
    assert len(rows_of(tmp_path)) == 5
    assert not any("source" in row for row in rows_of(tmp_path))
    require_exact(tmp_path)


@pytest.mark.parametrize(
    "name", ["clip.mp4", "https://example.org/clip.mp4", "https://example.org/a.png?b=1"]
)
def test_frames_and_addresses_have_a_line_each(tmp_path, name):
    frames = [name] if "?" in name else [f"{name}#{number:06d}" for number in range(3)]
    for _ in range(2):
        folder = PredictionWriter(tmp_path)
        for frame in frames:
            folder.write(prediction_of(Image.new("RGB", (24, 16)), name=frame, origin="stored"))
    assert [row["name"] for row in rows_of(tmp_path)] == frames
    require_exact(tmp_path)


@pytest.mark.parametrize("name", ["image", "image_3", "5#x.png", "camera:0"])
def test_a_file_called_like_an_image_in_memory_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (24, 16)).save(name, format="PNG")
    for _ in range(2):
        prediction_of("*").save("out")
        with open(name, "rb") as stream:
            prediction_of(stream).save("out")
    assert [row["source"] for row in rows_of(tmp_path / "out")] == [str(tmp_path / name)]
    prediction_of(Image.new("RGB", (24, 16)), name=name).save("out")  # in memory: added
    assert len(rows_of(tmp_path / "out")) == 2
    require_exact(tmp_path / "out")


FOREIGN = [
    "hello",
    "hello\n",
    "[1]\n",
    "1",
    "{}\n",
    '{"name": "a.png", "task": "detection"}\n',
    '{"name": "a.png", "task": "detection", "mask": {"size": [1, 1], "runs": []}}\n',
    '{"name": "a.png", "task": "detection", "drawing": 3}\n',
    '{"name": "a.png", "task": "detection", "drawing": "../a.jpg"}\n',
    '{"name": "a.png", "task": "detection", "drawing": "..\\\\a.jpg"}\n',
    '{"name": "a.png", "task": "detection", "drawing": "/etc/a.jpg"}\n',
    '{"name": "a.png", "task": "detection", "drawing": "a.png"}\n',
    '{"name": 1, "task": "detection", "drawing": "a.jpg"}\n',
    '{"img": "a.png", "labels": [1]}\n',
    '{"name": "a.png", "task": "det\n{"name": "b.png", "task": "detection", "drawing": "b.jpg"}\n',
    b"\xff\xfe{}",
    "[" * 100_000,
]


@pytest.mark.parametrize("content", FOREIGN)
def test_a_file_of_another_program_is_refused(tmp_path, content):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "predictions.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 1: expected a line that predict") as error:
        PredictionWriter(tmp_path)
    assert "\n" not in str(error.value)
    assert (tmp_path / "predictions.jsonl").read_bytes() == content
    assert files_of(tmp_path) == set()


def test_a_second_line_of_another_program_is_named(tmp_path):
    prediction_of(image_file(tmp_path / "in/a.png")).save(tmp_path / "out")
    with (tmp_path / "out/predictions.jsonl").open("a") as stream:
        stream.write('\n{"id": 1}\n')
    with pytest.raises(UserError, match="line 3"):
        PredictionWriter(tmp_path / "out")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_cut_line_is_dropped_and_earlier_lines_stay(tmp_path, share, earlier):
    out = tmp_path / "out"
    for name in "abc"[: earlier + 1]:
        prediction_of(image_file(tmp_path / f"{name}.png")).save(out)
    lines = (out / "predictions.jsonl").read_text().splitlines(keepends=True)
    cut = lines[-1][: max(1, int(share * len(lines[-1])))]
    (out / "predictions.jsonl").write_text("".join(lines[:-1]) + cut)
    (out / f"{'abc'[earlier]}.jpg").unlink()
    prediction_of(image_file(tmp_path / "d.png")).save(out)
    assert [Path(row["name"]).stem for row in rows_of(out)] == [*"ab"[:earlier], "d"]
    require_exact(out)


def test_a_last_line_without_line_end_is_kept(tmp_path):
    out = tmp_path / "out"
    prediction_of(image_file(tmp_path / "a.png")).save(out)
    path = out / "predictions.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\n"))  # as an editor may leave it
    prediction_of(image_file(tmp_path / "b.png")).save(out)
    assert [row["drawing"] for row in rows_of(out)] == ["a.jpg", "b.jpg"]


def test_lines_follow_drawings_that_were_removed(tmp_path):
    out = tmp_path / "out"
    for name in "abc":
        prediction_of(image_file(tmp_path / f"{name}.png"), "segmentation").save(out)
    for name in ("a.jpg", "a_mask.png", "b_mask.png", "c.jpg"):
        (out / name).unlink()
    prediction_of(image_file(tmp_path / "d.png")).save(out)
    files = [{key: row[key] for key in ("drawing", "mask") if key in row} for row in rows_of(out)]
    assert files == [{"drawing": "b.jpg"}, {"mask": "c_mask.png"}, {"drawing": "d.jpg"}]
    prediction_of(tmp_path / "c.png", "segmentation").save(out)
    assert len(rows_of(out)) == 3
    require_exact(out)


@pytest.mark.parametrize("step", ["write_image", "label_image", "_put"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("again", [False, True])
def test_an_interruption_leaves_everything_as_it_was(tmp_path, monkeypatch, step, error, again):
    out, folder = tmp_path / "out", PredictionWriter(tmp_path / "out")
    for name in "ab":
        folder.write(prediction_of(image_file(tmp_path / f"{name}.png"), "segmentation"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*arguments, **options):
        raise error

    source = tmp_path / "a.png" if again else image_file(tmp_path / "c.png")
    with monkeypatch.context() as patch:
        patch.setattr(folder if step == "_put" else writer, step, fail)
        with pytest.raises(UserError if isinstance(error, OSError) else type(error)):
            folder.write(prediction_of(source, "segmentation", 0.1))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    folder.write(prediction_of(source, "segmentation", 0.1))
    assert len(rows_of(out)) == (2 if again else 3)
    require_exact(out)


def test_a_failing_append_or_rename_loses_no_line(tmp_path, monkeypatch):
    out, folder = tmp_path / "out", PredictionWriter(tmp_path / "out")
    a, b, c = (prediction_of(image_file(tmp_path / f"{name}.png")) for name in "abc")
    folder.write(a)
    text = (out / "predictions.jsonl").read_text()

    def killed(source, target):
        raise KeyboardInterrupt

    for prediction in (b, replace(a, task="other")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with pytest.raises(KeyboardInterrupt):
                folder.write(prediction)
        assert (out / "predictions.jsonl").read_text().startswith(text)
        PredictionWriter(out).write(c)  # the next run
        assert [row["drawing"] for row in rows_of(out)] == ["a.jpg", "c.jpg"]
        require_exact(out)


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    image_file(tmp_path / f"out/{writer._PARTIAL}a.jpg")
    assert next(images_of(image_file(tmp_path / "out/b.png").parent)).stem == "b"
    PredictionWriter(tmp_path / "out").create()
    assert files_of(tmp_path / "out") == {"b.png"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["scores", "boxes"])
def test_json_is_strict(tmp_path, value, part):
    prediction = prediction_of(image_file(tmp_path / "a.png"))
    prediction = replace(prediction, **{part: np.full_like(getattr(prediction, part), value)})
    with pytest.raises(UserError, match="expected finite scores and boxes"):
        prediction.save(tmp_path / "out")
    assert files_of(tmp_path / "out") == set()


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"\xff\xfe.png", "犬 é.png".encode(), b"a\nb.png", b'a\\"b.png']
)
def test_odd_names_are_stored_reversibly(tmp_path, name):
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    try:
        image_file(path)
    except OSError:
        pytest.skip("this file system has no such names")
    for _ in range(2):
        drawing = prediction_of(path).save(tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert os.fsencode(row["name"]) == os.fsencode(path)
    assert drawing.name.encode()
    require_exact(tmp_path / "out")


def test_long_names_fit_the_file_system(tmp_path):
    for name in ("x" * 240, "犬" * 80):
        prediction_of(image_file(tmp_path / f"{name}.png"), "segmentation").save(tmp_path / "out")
    require_exact(tmp_path / "out")


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_runs_keeps_the_folder_exact(tmp_path, seed):
    generator = random.Random(seed)
    names = ["a/x.png", "b/x.jpg", "b/X.png", "c/x_2.png", "out/x.jpg", "out/y_mask.png", "c/y.png"]
    sources = [
        image_file(tmp_path / name, color)
        for name, color in zip(names, ["red", "blue", "lime", "navy", "tan", "snow", "teal"], strict=True)
    ]
    before = [source.read_bytes() for source in sources]
    predicted = set()
    for _ in range(5):
        folder = PredictionWriter(tmp_path / "out")
        for source in generator.sample(sources, generator.randint(1, 5)):
            folder.write(prediction_of(source, generator.choice(TASKS), generator.random()))
            predicted.add(str(source))
        require_exact(tmp_path / "out", foreign=["x.jpg", "y_mask.png"])
    assert [source.read_bytes() for source in sources] == before
    assert sorted(row["name"] for row in rows_of(tmp_path / "out")) == sorted(predicted)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    prediction = prediction_of(image_file(tmp_path / "a.png"))
    with pytest.raises(UserError, match="cannot write into"):
        prediction.save(tmp_path / "file/out")
    (tmp_path / "out/predictions.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot read"):
        prediction.save(tmp_path / "out")


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_full_disk_is_told_of_the_folder_not_of_a_hidden_file(monkeypatch, tmp_path, task):
    usual = Image.Image.save

    def full(image, path, *more, **options):
        if task == "detection" or "mask" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        usual(image, path, *more, **options)

    prediction = prediction_of(image_file(tmp_path / "a.png"), task)
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UserError) as raised:
        prediction.save(tmp_path / "out")
    message = str(raised.value)
    assert message.startswith(f"cannot write into {tmp_path / 'out'}: No space left on device (")
    assert message.endswith("free); free some space")
    assert files_of(tmp_path / "out") == set()


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    script = (
        "import sys\nfrom hardnet_suite.prediction import PredictionWriter\n"
        "writer = PredictionWriter(sys.argv[1])\nwriter.create()\nprint('ready', flush=True)\ninput()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(UserError, match="another process writes predictions into"):
            PredictionWriter(tmp_path / "out")
        other.communicate("\n")
    writers = [PredictionWriter(tmp_path / "out") for _ in range(2)]  # those of one process share the lock
    for each in writers:
        each.create()
    handle = writers[0]._lock._handle
    del each, writers
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(handle)


def test_lines_that_another_process_wrote_meanwhile_are_kept(tmp_path):
    late = PredictionWriter(tmp_path / "out")  # before there is a folder
    first = PredictionWriter(tmp_path / "out")
    first.write(prediction_of(image_file(tmp_path / "a.png")))
    del first
    late.write(prediction_of(image_file(tmp_path / "b.png")))
    assert len((tmp_path / "out/predictions.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["hard link", "link", "link to an empty file"])
def test_a_file_that_another_folder_shares_is_replaced(tmp_path, kind):
    first, second = (prediction_of(image_file(tmp_path / f"{name}.png")) for name in "ab")
    out, other = tmp_path / "out", tmp_path / "other.jsonl"
    first.save(out)
    path = out / "predictions.jsonl"
    if kind == "hard link":
        os.link(path, other)
    else:
        path.replace(other)
        path.symlink_to(other)
        if "empty" in kind:
            other.write_text("")
            (out / "a.jpg").unlink()
    before = other.read_bytes()
    second.save(out)
    assert other.read_bytes() == before
    assert not path.is_symlink()
    assert path.stat().st_nlink == 1
    expected = ["b.jpg"] if "empty" in kind else ["a.jpg", "b.jpg"]
    assert [row["drawing"] for row in rows_of(out)] == expected
    require_exact(out)


def test_a_copy_made_between_two_writes_stays(tmp_path):
    folder = PredictionWriter(tmp_path / "out")
    folder.write(prediction_of(image_file(tmp_path / "a.png")))
    os.link(tmp_path / "out/predictions.jsonl", tmp_path / "copy.jsonl")
    folder.write(prediction_of(image_file(tmp_path / "b.png")))
    assert len((tmp_path / "copy.jsonl").read_text().splitlines()) == 1
    assert len(rows_of(tmp_path / "out")) == 2


def test_a_link_to_nowhere_is_not_followed(tmp_path):
    folder = PredictionWriter(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "late").mkdir()
    late = PredictionWriter(tmp_path / "late")
    for each in (tmp_path / "out", tmp_path / "late"):
        (each / "predictions.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    prediction = prediction_of(image_file(tmp_path / "a.png"))
    with pytest.raises(UserError, match="cannot read"):
        folder.write(prediction)
    late.write(prediction)
    assert not (tmp_path / "elsewhere.jsonl").exists()
    require_exact(tmp_path / "late")
