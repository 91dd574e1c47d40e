"""``eval coco``, ``eval segmentation`` and their files."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hardnet_suite import create_model
from hardnet_suite.cli import main
from hardnet_suite.data.descriptors import read_descriptors, write_descriptors
from hardnet_suite.data.hpatches import STRIPS
from hardnet_suite.data.patches import PatchSet, random_pairs, write_brown
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import COCO_METRICS


@pytest.fixture
def files(tmp_path):
    """Annotations of two cats and a dog, and results that find the cats alone."""
    boxes = [(1, 1, [10, 10, 40, 40]), (2, 1, [5, 5, 60, 50]), (2, 2, [80, 10, 50, 50])]
    keys = ("image_id", "category_id", "bbox")
    annotations = {
        "images": [{"id": 1, "width": 200, "height": 200}, {"id": 2, "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [dict(zip(keys, box, strict=True)) for box in boxes],
    }
    results = [{**entry, "score": 0.9} for entry in annotations["annotations"][:2]]
    for name, content in (("truth.json", annotations), ("found.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    return "--annotations", tmp_path / "truth.json", "--results", tmp_path / "found.json"


def test_figures_are_printed_and_written(cli, files, tmp_path):
    status, out, err = cli("eval", "coco", *files, "--classwise", "--out", tmp_path / "figures.json")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert set(COCO_METRICS) | {"cat", "dog"} <= rows.keys()
    assert rows["mAP"][-1] == "0.500"
    assert rows["cat"] == ["1.000", "1.000", "1.000", "1.000", "2"]
    assert rows["dog"] == ["0.000", "0.000", "0.000", "0.000", "1"]
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["metrics"]["mAP"] == pytest.approx(0.5)
    assert list(content["metrics"]) == list(COCO_METRICS)
    assert content["per_class"]["cat"]["AP"] == pytest.approx(1)
    assert content["per_class"]["dog"]["AP_large"] is None
    assert content["per_class"]["dog"]["boxes"] == 1
    assert "NaN" not in (tmp_path / "figures.json").read_text()


def test_plots_replace_plots_alone(cli, error_of, files, tmp_path):
    plots = tmp_path / "plots"
    for _ in range(2):
        status, out, err = cli("eval", "coco", *files, "--plots", plots)
        assert (status, err) == (0, "")
        assert sorted(path.name for path in plots.iterdir()) == ["confusion.png", "precision_recall.png"]
        assert f"plot: {plots / 'confusion.png'}" in out
    other = tmp_path / "other"
    message = error_of("eval", "coco", *files, "--plots", other, "--out", other / "confusion.png")
    assert f"--out and --plots are one file, {other / 'confusion.png'}" in message
    assert not other.exists()
    (plots / "confusion.png").write_text("mine")
    message = error_of("eval", "coco", *files, "--plots", plots)
    assert f"{plots / 'confusion.png'} exists, and no earlier eval wrote it" in message
    assert (plots / "confusion.png").read_text() == "mine"
    assert "cannot write" in error_of("eval", "coco", *files, "--plots", files[1])


def test_masks_in_place_of_boxes(cli, error_of, files):
    """Results that are right in their boxes, and cover half of each mask."""
    assert "entry 0 lacks segmentation" in error_of("eval", "coco", *files, "--masks")
    for path, share in ((files[1], 1.0), (files[3], 0.5)):
        content = json.loads(path.read_text())
        for entry in content["annotations"] if share == 1 else content:
            x, y, w, h = entry["bbox"]
            w *= share
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(content))

    def figure(*options):
        status, out, err = cli("eval", "coco", *files, *options)
        assert (status, err) == (0, "")
        return next(line for line in out.splitlines() if line.startswith("AP75")).split()[-1]

    assert (figure(), figure("--masks")) == ("0.500", "0.000")
    assert "leave out --masks, or --plots" in error_of("eval", "coco", *files, "--masks", "--plots", "p")


def test_classes_are_listed_on_demand_only(cli, files):
    assert "dog" not in cli("eval", "coco", *files)[1]


@pytest.mark.parametrize(
    ("which", "content", "message"),
    [
        (1, None, "truth.json does not exist"),
        (3, None, "found.json does not exist"),
        (1, "garbage", "truth.json is not valid JSON"),
        (3, '[{"image_id": 1, "categ', "found.json is not valid JSON, or is truncated"),
        (1, "[]", "truth.json holds a JSON list, expected COCO annotations"),
        (1, '{"images": []}', "truth.json has no 'categories'"),
        (3, "{}", "found.json: expected a list of detections"),
        (3, '[{"image_id": 1}]', "found.json: entry 0 lacks category_id, bbox, score"),
        (
            3,
            '[{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            "image_id 7 not among",
        ),
        (3, "\x80binary", "found.json is not valid JSON"),
    ],
)
def test_missing_and_garbage_files(error_of, files, which, content, message):
    if content is None:
        files[which].unlink()
    else:
        files[which].write_bytes(content.encode("latin-1"))
    assert message in error_of("eval", "coco", *files)


def test_figures_that_cannot_be_written(error_of, files, tmp_path):
    out = files[1] / "figures.json"
    assert f"cannot write {out}" in error_of("eval", "coco", *files, "--out", out)
    assert f"{tmp_path} exists, and no earlier eval" in error_of("eval", "coco", *files, "--out", tmp_path)


@pytest.mark.parametrize("which", [1, 3, "mine", '{"metrics": {"mAP": 0.5}}'])
def test_figures_replace_figures_alone(cli, error_of, files, tmp_path, which):
    """Neither the annotations nor the detections, nor another file of the user's."""
    out = tmp_path / "notes.json" if isinstance(which, str) else files[which]
    if isinstance(which, str):
        out.write_text(which)
    before = out.read_bytes()
    assert f"{out} exists, and no earlier eval wrote it" in error_of("eval", "coco", *files, "--out", out)
    assert out.read_bytes() == before
    for _ in range(2):
        assert cli("eval", "coco", *files, "--out", tmp_path / "figures.json")[0] == 0


@pytest.fixture
def stored_descriptors(tmp_path):
    """Descriptors of two sequences, in both forms, and a split of one of them with its task files."""
    random = np.random.default_rng(0)
    points = {"i_a": random.normal(size=(8, 4)), "v_b": random.normal(size=(9, 4))}
    for sequence, strip in itertools.product(points, STRIPS):
        path = tmp_path / "descriptors" / sequence / strip
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = 1 if strip.startswith("t") else 1e-3
        values = points[sequence] + noise * random.normal(size=points[sequence].shape)
        if sequence == "i_a":
            np.savez(path.with_suffix(".npz"), descriptors=values.astype(np.float32))
        else:
            np.savetxt(path.with_suffix(".csv"), values, delimiter=";")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = [f"i_a,{i % 6},{i},i_a,{(i + 1) % 6}," for i in range(8)]
    for name, other in (("verif_pos", 0), ("verif_neg_intra", 1), ("verif_neg_inter", 2)):
        lines = [row + str((i + other) % 8) for i, row in enumerate(rows)]
        (tasks / f"{name}_split-own.csv").write_text("\n".join(["s1,t1,idx1,s2,t2,idx2", *lines]))
    (tasks / "retr_queries_split-own.csv").write_text("s,idx\ni_a,3\ni_a,5\n")
    (tasks / "retr_distractors_split-own.csv").write_text("s,idx\nv_b,3\nv_b,5\n")
    return tmp_path / "descriptors", "--tasks", tasks, "--split", "own"


def test_stored_descriptors_are_scored(cli, stored_descriptors, tmp_path):
    out = tmp_path / "figures.json"
    for _ in range(2):  # figures replace figures
        status, printed, err = cli("eval", "hpatches", *stored_descriptors, "--out", out)
        assert (status, err) == (0, "")
    rows = {line.rsplit(maxsplit=4)[0]: line.split()[-4:] for line in printed.splitlines()}
    assert rows["percent"] == ["easy", "hard", "tough", "mean"]
    assert rows["matching mAP"][:2] == ["100.00", "100.00"]
    assert len(rows) == 1 + 4 + 2 + 1
    content = json.loads(out.read_text())
    assert content["split"] == "own"
    assert content["retrieval"]["e"] == {"100": 1.0}
    assert content["verification"]["h"]["intra"]["balanced_auc"] == 1
    assert content["matching"]["t"]["ap"] < 1


def test_matching_of_all_sequences_needs_descriptors_alone(cli, stored_descriptors):
    status, printed, err = cli("eval", "hpatches", stored_descriptors[0])
    assert (status, err) == (0, "")
    *lines, last = printed.splitlines()
    assert [line.split()[0] for line in lines] == ["percent", "matching", "matching"]
    assert last == f"all 2 sequences of {stored_descriptors[0]}"
    status, printed, err = cli("eval", "hpatches", *stored_descriptors, "--only", "retrieval")
    assert [line.split()[0] for line in printed.splitlines()] == ["percent", "retrieval"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "."], "--tasks needs --split"),
        (["--split", "a"], "split a has 40 sequences, the descriptors lack 40"),
        (["--split", "ilum"], "did you mean illum?"),
        (["--only", "retrieval"], "need the folder of the HPatches task files"),
        (["--only", "matchin"], "did you mean matching?"),
        (["--tasks", "missing", "--split", "a"], "missing: no such folder of HPatches task files"),
        (["--out", "descriptors"], "no earlier eval wrote it"),
    ],
)
def test_errors_of_stored_descriptors(error_of, stored_descriptors, monkeypatch, arguments, message):
    monkeypatch.chdir(stored_descriptors[0].parent)
    assert message in error_of("eval", "hpatches", "descriptors", *arguments)


def test_damaged_descriptors(error_of, stored_descriptors):
    (stored_descriptors[0] / "i_a" / "h2.npz").write_bytes(b"")
    assert "h2.npz is damaged" in error_of("eval", "hpatches", *stored_descriptors)
    (stored_descriptors[0] / "i_a" / "h2.npz").unlink()
    assert "sequence i_a lacks 1 of 16 strips: h2" in error_of("eval", "hpatches", *stored_descriptors)


@pytest.fixture
def patch_sets(tmp_path):
    """Two sets in Brown's layout with 40 pairs each; stored descriptors: one per point, or all equal."""
    random = np.random.default_rng(0)
    for name in ("liberty", "yosemite"):
        ids = np.repeat(np.arange(12), 2)
        points = random.integers(0, 256, (12, 64, 64))
        patches = np.clip(points[ids] + random.normal(size=(24, 64, 64)), 0, 255).astype(np.uint8)
        pairs = random_pairs(ids, 40)
        write_brown(tmp_path / "sets" / name, PatchSet(name, patches, ids, pairs))
        values = random.normal(size=(12, 8))[ids] if name == "liberty" else np.ones((24, 8))
        write_descriptors(tmp_path / "stored" / f"{name}.npz", values)
    return tmp_path / "sets"


def rows_of(printed):
    return {line.split()[0]: line.split()[1:] for line in printed.splitlines()}


def test_stored_descriptors_of_patch_sets(cli, patch_sets, tmp_path):
    folders = [patch_sets / "liberty", patch_sets / "yosemite"]
    out = tmp_path / "figures.json"
    status, printed, err = cli("eval", "patches", *folders, "--stored", tmp_path / "stored", "--out", out)
    assert (status, err) == (0, "")
    rows = rows_of(printed)
    assert rows["set"] == ["FPR95,", "%", "pairs"]
    assert rows["liberty"] == ["0.00", "40"]
    assert rows["yosemite"] == ["100.00", "40"]
    assert rows["mean"] == ["50.00", "80"]
    content = json.loads(out.read_text())
    assert content["metrics"] == {"fpr95": 0.5}
    assert content["per_set"]["yosemite"] == {"fpr95": 1.0, "pairs": 40}


def test_a_model_is_scored_and_its_descriptors_are_saved(cli, patch_sets, tmp_path):
    torch.manual_seed(0)
    torch.save(create_model("hardnet_descriptor").state_dict(), tmp_path / "mine.pth")
    (patch_sets / "made").mkdir()
    (patch_sets / "liberty").rename(patch_sets / "made" / "brown")  # what make-patches writes
    command = "eval", "patches", patch_sets / "made", "--device", "cpu"
    status, printed, err = cli(*command, "--descriptor", tmp_path / "mine.pth")
    assert (status, err) == (0, "")
    assert rows_of(printed)["made"] == ["0.00", "40"]  # noise is easy to tell apart, even for random weights
    weights = "--weights", tmp_path / "mine.pth", "--save", tmp_path / "saved"
    for _ in range(2):
        status, again, err = cli(*command, *weights)
        assert (status, err) == (0, "")
    assert rows_of(again)["made"] == rows_of(printed)["made"]
    assert read_descriptors(tmp_path / "saved" / "made.npz").shape == (24, 128)
    status, again, err = cli(*command[:3], "--stored", tmp_path / "saved")
    assert rows_of(again)["made"] == rows_of(printed)["made"]
    other = PatchSet("made", np.zeros((24, 64, 64), np.uint8), np.repeat(np.arange(12), 2))
    pairs = random_pairs(other.point_ids, 40)
    write_brown(tmp_path / "other" / "made", replace(other, pairs=pairs))
    status, _, err = cli("eval", "patches", tmp_path / "other" / "made", "--stored", tmp_path / "saved")
    assert (status, "made.npz is of other patches" in err) == (2, True)


def test_scores_do_not_replace_the_descriptors_of_the_same_run(error_of, patch_sets, tmp_path):
    places = "--save", tmp_path / "saved", "--out", tmp_path / "saved" / "liberty.npz"
    assert "--out and --save are one file" in error_of("eval", "patches", patch_sets / "liberty", *places)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("folder", ["none", "empty"])
def test_folders_of_patch_sets_are_checked_before_a_model_is_loaded(error_of, patch_sets, tmp_path, folder):
    (tmp_path / "empty").mkdir()
    message = error_of("eval", "patches", patch_sets / "liberty", tmp_path / folder, "--weights", "none.pth")
    assert message.startswith(
        f"error: no {'folder' if folder == 'none' else 'patches in'} {tmp_path / folder}"
    )


@pytest.mark.parametrize("kind", ["coco", "segmentation", "hpatches", "patches", "retrieval"])
def test_every_kind_has_debug(kind, capsys):
    with pytest.raises(SystemExit):
        main(["eval", kind, "--help"])
    assert "--debug" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_raises(place, tmp_path):
    command = ["patches", str(tmp_path / "none")]
    with pytest.raises(UserError, match="no folder"):
        main(["eval", *(["--debug", *command] if place == "before" else [*command, "--debug"])])


def _without_pairs(folder):
    (folder / "sets" / "liberty" / "m50_40_40_0.txt").unlink()


def _matching_pairs_alone(folder):
    path = folder / "sets" / "liberty" / "m50_40_40_0.txt"
    rows = [line for line in path.read_text().splitlines(True) if line.split()[1] == line.split()[4]]
    path.with_name(f"m50_{len(rows)}_{len(rows)}_0.txt").write_text("".join(rows))
    path.unlink()


def _with_two_files(folder):
    np.savetxt(folder / "stored" / "liberty.csv", np.ones((24, 8)), delimiter=",")


def _with_fewer(folder):
    write_descriptors(folder / "stored" / "liberty.npz", np.ones((23, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_pairs, "has no pairs to score"),
        (_matching_pairs_alone, "expected pairs that match and pairs that do not"),
        (_with_two_files, "found liberty.npz and liberty.csv"),
        (_with_fewer, "liberty.npz has 23 descriptors, expected one for each of 24 patches"),
        (lambda folder: (folder / "stored" / "liberty.npz").unlink(), "liberty.txt, found none"),
        (lambda folder: (folder / "stored" / "liberty.npz").write_bytes(b"1"), "liberty.npz is damaged"),
        (lambda folder: (folder / "sets" / "liberty" / "info.txt").unlink(), "info.txt"),
    ],
)
def test_errors_of_patch_sets(error_of, patch_sets, tmp_path, change, message):
    change(tmp_path)
    assert message in error_of("eval", "patches", patch_sets / "liberty", "--stored", tmp_path / "stored")


def test_options_of_patch_sets_that_contradict_each_other(error_of, patch_sets, tmp_path):
    command = "eval", "patches", patch_sets / "liberty", "--stored", tmp_path / "stored"
    for option in (
        ["--save", tmp_path],
        ["--weights", "homography"],
        ["--descriptor", "hardnet_descriptor"],
        ["--device", "cpu"],
        ["--bf16"],
    ):
        assert f"leave out {option[0]}" in error_of(*command, *option)
    assert "two folders of one name" in error_of("eval", "patches", *2 * [patch_sets / "liberty"])
    assert "no file of pairs" in error_of(*command, "--pairs", 500)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "liberty.npz").write_text("mine")
    message = error_of("eval", "patches", patch_sets / "liberty", "--save", tmp_path / "saved")
    assert "liberty.npz exists, and no earlier eval wrote it" in message


@pytest.fixture
def label_folders(tmp_path):
    """Truth and prediction of one CamVid image: a road right, half of a car taken for a bicyclist."""
    for folder, values in (("truth", [[3, 3, 8, 8, 11]]), ("found", [[3, 3, 8, 10, 0]])):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.array(values, np.uint8)).save(tmp_path / folder / "a.png")
    return "--predictions", tmp_path / "found", "--annotations", tmp_path / "truth"


def test_segmentation_figures_are_printed_and_written(cli, label_folders, tmp_path):
    out, plots = tmp_path / "figures.json", tmp_path / "plots"
    options = "--dataset", "camvid", "--out", out, "--plots", plots
    status, printed, err = cli("eval", "segmentation", *label_folders, *options)
    assert (status, err) == (0, "")
    assert [path.name for path in plots.iterdir()] == ["confusion.png"]
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert rows["Road"] == ["1.0000", "1.0000", "0.5000"]
    assert rows["Car"] == ["0.5000", "0.5000", "0.5000"]
    assert rows["Sky"] == ["n/a", "n/a", "0.0000"]
    assert "category" not in rows
    content = json.loads(out.read_text())
    assert "NaN" not in out.read_text()
    assert content["metrics"] == {"mIoU": 0.5, "aAcc": 0.75, "mAcc": 0.75}
    assert content["per_class"]["Bicyclist"] == {"IoU": 0.0, "Acc": None}
    assert content["per_category"] == {}


@pytest.mark.parametrize(("ids", "stored"), [("trainIds", 13), ("labelIds", 26)])
def test_cityscapes_predictions_in_both_forms(cli, tmp_path, ids, stored):
    for name, value in (
        ("gtFine/ulm_000000_000019_gtFine_labelIds.png", 26),
        ("found/ulm_000000_000019.png", stored),
    ):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.full((2, 2), value, np.uint8)).save(tmp_path / name)
    folders = "--predictions", tmp_path / "found", "--annotations", tmp_path / "gtFine"
    status, out, err = cli(
        "eval", "segmentation", *folders, "--dataset", "cityscapes", "--prediction-ids", ids
    )
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()}
    assert rows["car"] == ["1.0000", "1.0000", "1.0000"]
    assert rows["vehicle"] == ["1.0000"]


def test_segmentation_errors(error_of, label_folders):
    command = "eval", "segmentation", *label_folders, "--dataset", "camvid"
    assert "exist for cityscapes only, camvid has trainIds" in error_of(
        *command, "--prediction-ids", "labelIds"
    )
    (label_folders[1] / "a.png").unlink()
    assert f"{label_folders[1]} has no PNG" in error_of(*command)
    (label_folders[1] / "b.png").touch()
    assert f"{label_folders[1]} has no a.png" in error_of(*command)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bbox": [9, 9, 0, 4]},
            "error: empty box (1, dropped; a detection of it counts as false): annotation",
        ),
        ({"image_id": "1"}, "warning: id of another type (1)"),
        ({"ignore": 1}, "warning: ignored box (1)"),
    ],
)
def test_boxes_that_are_dropped_or_read_otherwise_are_told(cli, files, change, message):
    content = json.loads(files[1].read_text())
    content["annotations"][0].update(change)
    files[1].write_text(json.dumps(content))
    status, _, err = cli("eval", "coco", *files)
    assert status == 0
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_references_to_nothing_are_one_error(error_of, files, key):
    content = json.loads(files[1].read_text())
    content["annotations"][0][key] = 77
    files[1].write_text(json.dumps(content))
    assert f"has {key} 77, which is not among the" in error_of("eval", "coco", *files)


def test_boxes_that_are_not_checked_are_told(cli, files):
    content = json.loads(files[1].read_text())
    for image in content["images"]:
        image["width"] = True
    files[1].write_text(json.dumps(content))
    status, _, err = cli("eval", "coco", *files)
    assert status == 0
    assert "images state no valid width and height: their boxes were not checked against the image" in err
    assert err.count("\n") == 1
