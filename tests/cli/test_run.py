"""From data to figures: ``train``, ``test`` and ``eval`` on each other's files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from hardnet_suite.data.images import read_rgb
from hardnet_suite.evaluation.coco import COCO_METRICS
from hardnet_suite.inference.precision import PrecisionChoice
from hardnet_suite.openmm.data import parts
from hardnet_suite.openmm.run import configs

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def strings(node):
    """All strings inside nested dicts and lists."""
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        yield from strings(child)


def open_files(folder):
    """What this process has open below a folder: a run that leaves its log open adds a file each time."""
    links = [Path("/proc/self/fd", number) for number in os.listdir("/proc/self/fd")]
    paths = [link.readlink() for link in links if link.is_symlink()]
    return [path for path in paths if path.is_relative_to(folder)]


def test_train_leaves_checkpoint_config_and_log(trained):
    meta = torch.load(trained / "epoch_1.pth", weights_only=False)["meta"]
    assert (meta["epoch"], meta["iter"], meta["seed"]) == (1, 2, 3)
    assert Config.fromfile(trained / "tiny.py").randomness.seed == 3
    (log,) = trained.glob("*/vis_data/scalars.json")
    assert list(trained.glob("*/vis_data/events.out.tfevents*"))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["iter"] for row in rows if "loss" in row] == [1, 2]
    assert {f"coco/bbox_{name}" for name in COCO_METRICS} <= rows[-1].keys()


def test_checkpoint_is_scored_drawn_and_scored_again(cli, config, drawn, trained, tmp_path):
    work, images, checkpoint = tmp_path / "work", tmp_path / "images", trained / "epoch_1.pth"
    status, out, err = cli(
        "test", config, checkpoint, "--data-root", drawn, "--work-dir", work, "--show-dir", images
    )
    assert (status, err) == (0, "")
    table = {line.split()[0]: line.split()[-1] for line in out.splitlines() if " Average " in line}
    assert list(table) == list(COCO_METRICS)
    lines = out.splitlines()
    assert lines[0] == f"weights: {checkpoint}"
    assert len(lines) < 40
    assert "INFO" not in out
    (log,) = work.glob("*/*.log")
    assert "INFO" in log.read_text()
    written = (
        "metrics.json",
        "detections.json",
        "precision_recall.png",
        "confusion.png",
        "mistakes.jsonl",
        "worst.jpg",
    )
    assert {f"{work / name}" for name in written} == {
        line.split(": ")[1] for line in lines if f" {work}/" in line
    }
    assert all((work / name).stat().st_size for name in written)

    report = json.loads((work / "metrics.json").read_text())
    assert report["checkpoint"] == str(checkpoint)
    assert report["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert report["config"] == str(config)
    assert len(report["config_sha256"]) == 64
    figures = {name.removeprefix("coco/bbox_"): value for name, value in report["metrics"].items()}
    assert list(figures) == list(COCO_METRICS)
    for name, value in figures.items():
        assert table[name] == ("n/a" if value is None else f"{value:.3f}")

    detections = json.loads((work / "detections.json").read_text())
    assert detections
    assert {tuple(entry) for entry in detections} == {("image_id", "category_id", "bbox", "score")}
    status, _, _ = cli(
        "eval",
        "coco",
        "--annotations",
        drawn / "annotations/instances_val2017.json",
        "--results",
        work / "detections.json",
        "--out",
        tmp_path / "again.json",
    )
    assert status == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["metrics"] == figures
    assert again["per_class"] == report["per_class"]
    assert {line.split()[0] for line in lines if line} >= report["per_class"].keys()
    truth = json.loads((drawn / "annotations/instances_val2017.json").read_text())
    assert sum(row["boxes"] for row in report["per_class"].values()) == len(truth["annotations"])

    rows = [json.loads(line) for line in (work / "mistakes.jsonl").read_text().splitlines()]
    totals = [row["missed"] + row["confused"] + row["false"] for row in rows]
    assert len(rows) == 3
    assert totals == sorted(totals, reverse=True)

    names = sorted(path.stem for path in (drawn / "val2017").iterdir())
    drawings = sorted(images.iterdir())
    assert sorted(path.stem[4:] for path in drawings) == names
    totals_of = {Path(row["file_name"]).stem: total for row, total in zip(rows, totals, strict=True)}
    assert [totals_of[path.stem[4:]] for path in drawings] == totals
    assert Image.open(drawings[0]).size[0] >= 2 * 96


def test_the_worst_images_are_drawn_and_the_log_is_shown_on_demand(
    cli, error_of, config, drawn, trained, tmp_path, monkeypatch
):
    work, images = tmp_path / "work", tmp_path / "images"
    charted = []
    monkeypatch.setattr(
        "hardnet_suite.openmm.data.parts.detection.draw_detection_charts",
        lambda scores, mistakes, folder: charted.append(mistakes),
    )
    arguments = ("test", config, trained, "--data-root", drawn, "--work-dir", work)
    assert "--worst chooses the images that --show-dir draws" in error_of(*arguments, "--worst", 2)
    assert "--worst 0: expected" in error_of(*arguments, "--show-dir", images, "--worst", 0)
    options = ("--show-dir", images, "--worst", 2, "--score", 0, "--verbose")
    status, out, err = cli(*arguments, *options)
    assert (status, err) == (0, "")
    assert "mmengine - INFO" in out
    rows = [json.loads(line) for line in (work / "mistakes.jsonl").read_text().splitlines()]
    assert sum(row["false"] for row in rows) > 100  # of all scores
    assert [mistakes.least_score for mistakes in charted] == [0]
    assert charted[0].confusion[-1].sum() == sum(row["false"] for row in rows)
    expected = [f"{rank:03d}_{Path(row['file_name']).stem}.jpg" for rank, row in enumerate(rows[:2], 1)]
    assert sorted(path.name for path in images.iterdir()) == expected


def test_amp_and_a_runs_folder_in_place_of_a_checkpoint(cli, config, drawn, trained, tmp_path):
    for number, amp in enumerate(([], ["--bf16"], ["--amp"])):
        folder = tmp_path / str(number)
        status, _, _ = cli("test", config, trained, "--data-root", drawn, "--work-dir", folder, *amp)
        assert status == 0
    plain, half, alias = (json.loads((tmp_path / name / "detections.json").read_text()) for name in "012")
    assert plain != half  # bfloat16 was at work
    assert half == alias
    assert not open_files(tmp_path)


def test_a_finished_run_is_not_trained_further(cli, config, drawn, trained, tmp_path):
    work = shutil.copytree(trained, tmp_path / "work")
    status, out, _ = cli("train", config, "--data-root", drawn, "--work-dir", work, "--resume")
    assert status == 0
    assert str(work) in out
    assert (work / "epoch_1.pth").read_bytes() == (trained / "epoch_1.pth").read_bytes()
    assert not open_files(work)
    assert not open_files(trained)


def test_train_in_bfloat16(cli, config, data, tmp_path):
    work = tmp_path / "work"
    options = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "val_cfg=None"]
    options += ["val_dataloader=None", "val_evaluator=None", "train_dataloader.dataset.indices=2"]
    status, _, _ = cli(
        "train", config, "--data-root", data, "--work-dir", work, "--amp", "--cfg-options", *options
    )
    assert status == 0
    assert Config.fromfile(work / "tiny.py").optim_wrapper.type == "BFloat16OptimWrapper"


@pytest.mark.parametrize(
    ("wrapper", "said", "unsaid"),
    [("BFloat16OptimWrapper", "bf16", "float32"), ("OptimWrapper", "float32", "bf16")],
)
def test_the_faster_precision(cli, config, data, tmp_path, monkeypatch, wrapper, said, unsaid):
    from hardnet_suite.openmm.run import precision

    choice, other_choice = (
        PrecisionChoice(name, "a step", {"float32": 1.25, "bf16": 0.5}) for name in (said, unsaid)
    )
    monkeypatch.setattr(precision, "faster_step", lambda cfg: choice)
    work = tmp_path / "work"
    options = ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "val_cfg=None"]
    options += ["val_dataloader=None", "val_evaluator=None", "train_dataloader.dataset.indices=2"]
    arguments = ("--data-root", data, "--work-dir", work, "--precision", "auto", "--cfg-options", *options)
    status, out, _ = cli("train", config, *arguments)
    assert status == 0
    assert f"precision: {said} (a step takes 1.25 s in float32, 500 ms in bf16)\n" in out
    assert Config.fromfile(work / "tiny.py").optim_wrapper.type == wrapper

    # a run that is resumed keeps its precision, though the other one is faster now
    monkeypatch.setattr(precision, "faster_step", lambda cfg: other_choice)
    for resume in (["--resume"], ["--resume", work / "epoch_1.pth"]):
        status, out, _ = cli("train", config, *resume, *arguments)
        assert status == 0
        assert f"precision: {said}, as in the run to resume" in out
        assert "a step takes" not in out
        assert "so far, and resumes in" not in out
    other = [] if said == "bf16" else ["--bf16"]
    without = [value for value in arguments if value not in ("--precision", "auto")]
    status, out, err = cli("train", config, *other, "--resume", *without)
    assert status == 0
    old, new = ("bfloat16", "float32") if said == "bf16" else ("float32", "bfloat16")
    assert f"the run computed in {old} so far, and resumes in {new}" in out + err


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("command", ["train", "test", "predict"])
def test_precisions_that_exclude_each_other(cli, config, command, precision):
    given = [config] if command != "predict" else ["image.png", "--model", "hardnet39ds"]
    status, _, err = cli(command, *given, "--amp", "--precision", precision)
    assert (status, err) == (2, f"error: bf16 and the precision {precision} exclude each other\n")


@pytest.mark.parametrize("said", ["bf16", "float32"])
def test_a_test_in_the_faster_precision(cli, config, data, trained, tmp_path, monkeypatch, said):
    from hardnet_suite.openmm.run import precision

    seconds = {"float32": 1.25, "bf16": 0.5}
    monkeypatch.setattr(precision, "faster_pass", lambda cfg: PrecisionChoice(said, "a pass", seconds))
    arguments = ("test", config, trained, "--data-root", data)
    status, out, _ = cli(*arguments, "--work-dir", tmp_path / "auto", "--precision", "auto")
    assert status == 0
    assert out.splitlines()[0] == f"precision: {said} (a pass takes 1.25 s in float32, 500 ms in bf16)"
    metrics = json.loads((tmp_path / "auto" / "metrics.json").read_text())
    assert metrics["bf16"] == (said == "bf16")
    status, _, err = cli(*arguments, "--work-dir", tmp_path / "given", "--precision", said)
    assert (status, err) == (0, "")
    given = json.loads((tmp_path / "given" / "metrics.json").read_text())
    assert (given["bf16"], given["metrics"]) == (metrics["bf16"], metrics["metrics"])


def test_several_processes_choose_no_precision(cli, config, data, trained, tmp_path, monkeypatch):
    arguments = ("test", config, trained, "--data-root", data, "--work-dir", tmp_path / "work")
    status, _, err = cli(*arguments, "--precision", "auto", "--launcher", "pytorch")
    assert (status, "--precision auto times one process" in err) == (2, True)


def test_test_needs_the_test_data_only(cli, config, data, trained, tmp_path):
    (data / "annotations/instances_train2017.json").unlink()
    status, _, err = cli("test", config, trained, "--data-root", data, "--work-dir", tmp_path / "work")
    assert (status, err) == (0, "")


def altered(data, change, split="val2017"):
    path = data / f"annotations/instances_{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_format_only_needs_no_annotations(cli, error_of, config, data, drawn, trained, tmp_path):
    altered(data, lambda content: content.pop("annotations"))
    arguments = ("test", config, trained, "--data-root", data, "--work-dir")
    assert "has no 'annotations'" in error_of(*arguments, tmp_path / "scored")
    status, _, err = cli(*arguments, tmp_path / "work", "--format-only")
    assert (status, err) == (0, "")
    assert json.loads((tmp_path / "work/metrics.json").read_text())["metrics"] == {}
    exported = json.loads((tmp_path / "work/detections.json").read_text())
    assert cli(*arguments[:-3], "--data-root", drawn, "--work-dir", tmp_path / "full")[0] == 0
    assert exported == json.loads((tmp_path / "full/detections.json").read_text())


def test_scores_do_not_depend_on_how_ids_are_written(cli, config, data, drawn, trained, tmp_path):
    def change(content):
        content["categories"].reverse()
        content["categories"].insert(2, {"id": 0, "name": "circle"})
        for entry in content["images"]:
            entry["id"] = f"a/b {entry['id']}"
        for entry in content["annotations"]:
            entry["image_id"] = f"a/b {entry['image_id']}"
            entry["category_id"] = str(entry["category_id"])
            del entry["area"], entry["iscrowd"]

    altered(data, change)
    figures = []
    for root in (drawn, data):
        work = tmp_path / root.name
        arguments = ("--data-root", root, "--work-dir", work, "--show-dir", tmp_path / "images" / root.name)
        assert cli("test", config, trained, *arguments)[0] == 0
        metrics = json.loads((work / "metrics.json").read_text())["metrics"]
        figures.append(
            {name: metrics[name] for name in ("coco/bbox_mAP", "coco/bbox_AP50", "coco/bbox_AR_100")}
        )
        assert len(list((tmp_path / "images" / root.name).iterdir())) == 3
    assert figures[0] == figures[1]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["annotations"].clear(), "holds no box"),
        (lambda content: [entry.update(iscrowd=1) for entry in content["annotations"]], "no box but crowd"),
        (lambda content: content["images"][1].update(file_name="nope.jpg"), "has no file"),
        (lambda content: content["images"].append(dict(content["images"][0])), "occurs 2 times"),
    ],
)
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_annotations_of_every_split_are_required_first(
    error_of, config, data, trained, tmp_path, change, message, resume, split
):
    altered(data, change, split)
    work = shutil.copytree(trained, tmp_path / "work")
    arguments = ["train", config, "--data-root", data, "--work-dir", work]
    error = error_of(*arguments, *(["--resume", "--cfg-options", "train_cfg.max_epochs=2"] if resume else []))
    assert message in error
    assert f"instances_{split}.json" in error


@pytest.mark.parametrize("name", NAMES)
def test_data_root_moves_every_path(name):
    cfg = configs.load_config(name)
    old = cfg.data_root
    before = [text for text in strings(cfg._cfg_dict) if text.startswith(old.rstrip("/"))]
    assert len(before) >= 4
    configs.set_data_root(cfg, "/elsewhere/set")
    after = list(strings(cfg._cfg_dict))
    assert not [text for text in after if text.startswith(old.rstrip("/"))]
    assert [text for text in after if text.startswith("/elsewhere")] == [
        f"/elsewhere/set/{text.removeprefix(old)}" for text in before
    ]


def test_data_root_inside_the_old_one_and_in_lists():
    cfg = Config({"data_root": "data", "parts": ["data/a", {"path": "data/b"}], "other": ("database/c", 1)})
    configs.set_data_root(cfg, "data/mine/")
    assert cfg.parts == ["data/mine/a", {"path": "data/mine/b"}]
    assert cfg.data_root == "data/mine/"
    assert cfg.other == ("database/c", 1)


def test_parts_of_each_loader():
    cfg = configs.load_config("ssd512_hardnet68")
    train, val = parts.parts(cfg)  # test data are the validation data
    assert (train.loader, val.loader) == ("train_dataloader", "val_dataloader")
    assert train.annotation_file == Path("data/coco/annotations/instances_train2017.json")
    assert val.image_folder == Path("data/coco/val2017")
    assert len(val.classes) == 80
    (test,) = parts.parts(cfg, ["test_dataloader"])
    assert test.annotation_file == val.annotation_file


def test_training_begins_with_given_weights(cli, config, drawn, trained, tmp_path):
    def begin(checkpoint):
        options = [f"load_from={checkpoint}", "optim_wrapper.optimizer.lr=0.0"]
        folder = tmp_path / "work"
        return cli("train", config, "--data-root", drawn, "--work-dir", folder, "--cfg-options", *options)

    torch.save({"state_dict": {"a.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    status, _, err = begin(tmp_path / "foreign.pth")
    assert status == 2
    assert "foreign.pth" in err

    status, _, err = begin(trained / "epoch_1.pth")
    assert (status, err) == (0, "")
    given, left = (
        torch.load(folder / "epoch_1.pth", weights_only=False)["state_dict"]
        for folder in (trained, tmp_path / "work")
    )
    for key, value in given.items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            assert torch.equal(left[key], value), key


@pytest.mark.parametrize("way", ["load_from", "resume"])
@pytest.mark.parametrize(
    ("option", "name"),
    [("model.data_preprocessor.mean=[1,2,3]", "mean"), ("model.test_cfg.score_thr=0.3", "score")],
)
def test_weights_of_other_rules_are_named(cli, config, drawn, trained, tmp_path, way, option, name):
    checkpoint, work = trained / "epoch_1.pth", tmp_path / "work"
    start, settings = (
        ([], [f"load_from={checkpoint}"]) if way == "load_from" else (["--resume", checkpoint], [])
    )
    arguments = ["train", config, "--data-root", drawn, "--work-dir", work, *start, "--cfg-options"]
    settings.append("train_cfg.max_epochs=1")
    assert cli(*arguments, *settings, option)[0] == 0
    lines = {line for log in work.rglob("*.log") for line in log.read_text().splitlines()}
    (line,) = (line for line in lines if "differ from those that" in line)
    assert name in line
    assert str(checkpoint) in line


def test_a_work_dir_keeps_what_the_suite_did_not_write(cli, error_of, config, drawn, trained, tmp_path):
    work = tmp_path / "work"
    own = [work / "predictions/notes.txt", work / "heatmaps/mine.png", work / "mine.json"]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    arguments = ("test", config, trained, "--data-root", drawn, "--work-dir", work)
    assert cli(*arguments)[0] == 0
    first = json.loads((work / "metrics.json").read_text())
    error_of("test", config, tmp_path / "none.pth", *arguments[3:])
    assert json.loads((work / "metrics.json").read_text()) == first
    assert cli(*arguments)[0] == 0
    assert json.loads((work / "metrics.json").read_text())["date"] >= first["date"]
    assert [path.read_text() for path in own] == ["mine"] * 3

    for name in ("metrics.json", "detections.json"):
        other = tmp_path / f"other_{name}"
        other.mkdir()
        (other / name).write_text("mine")
        message = error_of(*arguments[:-1], other)
        assert f"{other / name} exists, and no earlier test run wrote it" in message
        assert [path.name for path in other.iterdir()] == [name]
        assert (other / name).read_text() == "mine"


def test_initial_weights_of_the_config_are_not_scored(cli, config, drawn, trained, tmp_path):
    """What a training started from, as in the config that it wrote, does not replace the checkpoint."""
    other = torch.load(trained / "epoch_1.pth", weights_only=False)
    for value in other["state_dict"].values():
        value.zero_()
    torch.save(other, tmp_path / "other.pth")
    arguments = ("test", config, trained / "epoch_1.pth", "--data-root", drawn, "--work-dir")
    assert cli(*arguments, tmp_path / "plain")[0] == 0
    options = ("--cfg-options", f"load_from={tmp_path / 'other.pth'}")
    assert cli(*arguments, tmp_path / "given", *options)[0] == 0
    plain, given = ((tmp_path / name / "detections.json").read_text() for name in ("plain", "given"))
    assert given == plain


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["run", "plain"])
def test_weights_that_are_not_finite_are_not_scored(error_of, config, drawn, trained, tmp_path, value, form):
    content = torch.load(trained / "epoch_1.pth", weights_only=False)
    key = next(key for key in content["state_dict"] if key.endswith("running_var"))
    content["state_dict"][key][0] = value
    path = tmp_path / "bad.pth"
    torch.save(content if form == "run" else content["state_dict"], path)
    message = error_of("test", config, path, "--data-root", drawn, "--work-dir", tmp_path / "work")
    assert f"{path}: 1 weight holds NaN or infinity, {key}" in message
    assert not (tmp_path / "work/metrics.json").exists()


@pytest.mark.parametrize("options", [["--score", "0.5"], ["--show-score", "0.5"]])
def test_an_option_that_would_do_nothing(error_of, config, drawn, trained, tmp_path, options):
    arguments = (config, trained, "--data-root", drawn, "--work-dir", tmp_path)
    message = error_of("test", *arguments, *options, "--format-only")
    assert "--score chooses the boxes of a detector that are drawn and counted" in message
    message = error_of(
        "train",
        config,
        "--data-root",
        drawn,
        "--work-dir",
        tmp_path,
        "--from-scratch",
        "--cfg-options",
        f"load_from={trained}/epoch_1.pth",
    )
    assert "--from-scratch starts from random weights: drop it, or load_from" in message


@pytest.mark.parametrize("missing", ["train2017", "val2017"])
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_data_of_every_split_are_required_first(error_of, config, data, trained, tmp_path, missing, resume):
    work = shutil.copytree(trained, tmp_path / "work")
    before = sorted(work.rglob("*"))
    (data / "annotations" / f"instances_{missing}.json").unlink()
    message = error_of("train", config, "--data-root", data, "--work-dir", work, *resume)
    assert f"instances_{missing}.json" in message
    assert sorted(work.rglob("*")) == before


def test_drawings_have_the_configs_palette_and_no_heat_maps_of_others(cli, config, drawn, trained, tmp_path):
    """An SSD makes no heat maps: a folder of that name in the work dir is somebody else's."""
    work, images = tmp_path / "work", tmp_path / "images"
    (work / "heatmaps").mkdir(parents=True)
    for name in ("1.png", "notes.txt"):
        (work / "heatmaps" / name).write_bytes(b"mine")
    colour = (255, 0, 255)
    palette = f"test_dataloader.dataset.metainfo.palette=[{','.join([str(colour).replace(' ', '')] * 6)}]"
    arguments = ("--data-root", drawn, "--work-dir", work, "--show-dir", images, "--cfg-options", palette)
    assert cli("test", config, trained / "epoch_1.pth", *arguments)[0] == 0
    assert not [path for path in images.iterdir() if "heatmap" in path.name]
    assert {path.name for path in (work / "heatmaps").iterdir()} == {"1.png", "notes.txt"}
    pixels = np.concatenate([read_rgb(path).reshape(-1, 3) for path in images.iterdir()]).astype(int)
    assert (abs(pixels - colour).max(1) < 40).sum() > 100


def test_a_folder_of_drawings_that_is_a_file_is_told_first(error_of, config, drawn, trained, tmp_path):
    (tmp_path / "file").write_text("mine")
    options = ("--data-root", drawn, "--work-dir", tmp_path / "w", "--show-dir", tmp_path / "file")
    assert "is a file: choose a folder" in error_of("test", config, trained, *options)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    options = (*options[:-1], tmp_path / "link")
    assert "is a link to nowhere: choose a folder" in error_of("test", config, trained, *options)
    assert not (tmp_path / "w").exists()
