"""Training logs: read in spite of a cut last line, drawn without touching pyplot."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.visualization import curves
from hardnet_suite.visualization.curves import (
    main_scores,
    plot_training,
    read_run,
    read_scalars,
    score_name,
    score_text,
)


def train_row(step, loss, **more):
    return {
        "lr": 0.004,
        "loss": loss,
        "loss_cls": 0.6 * loss,
        "loss_bbox": 0.4 * loss,
        "iter": step,
        "step": step,
        **more,
    }


def val_row(step, value, half="coco/bbox_AP50"):
    return {"coco/bbox_mAP": value, half: 1.5 * value, "time": 0.2, "step": step}


TRAIN = [train_row(10 * k, 8 / k, epoch=1 + k // 10) for k in range(1, 30)]
VAL = [val_row(k, 0.1 * k) for k in (1, 2, 3)]


def colored(path, color):
    """How many pixels of an image have about this colour, "#rrggbb"."""
    target = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
    return int((np.abs(np.asarray(Image.open(path).convert("RGB")).astype(int) - target).max(-1) < 12).sum())


def test_read_scalars(tmp_path):
    path = tmp_path / "scalars.json"
    path.write_text("\n".join(json.dumps(row) for row in TRAIN + VAL) + "\n\n")
    assert read_scalars(path) == TRAIN + VAL


def test_read_scalars_leaves_out_a_cut_last_line(tmp_path):
    path = tmp_path / "scalars.json"
    path.write_text(json.dumps(TRAIN[0]) + "\n" + json.dumps(TRAIN[1])[:25])
    assert read_scalars(path) == TRAIN[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ('{"loss": 1}\n{"loss": \n{"loss": 3}\n', "line 2 is not JSON"),
        ("epoch,loss\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is not a JSON object"),
    ],
)
def test_read_scalars_bad_files(tmp_path, content, message):
    path = tmp_path / "scalars.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_scalars(path)


@pytest.mark.parametrize("half", ["coco/bbox_AP50", "coco/bbox_mAP_50"])  # the suite's metric, mmdet's
def test_plot_draws_losses_and_map(tmp_path, half):
    path = tmp_path / "new" / "curves.png"
    plot_training(TRAIN + [val_row(k, 0.1 * k, half) for k in (1, 2, 3)], path, title="a training")
    assert all(colored(path, color) > 50 for color in curves._COLORS.values())


@pytest.mark.parametrize("percent", [False, True])
def test_plot_draws_segmentation_scores(tmp_path, percent, monkeypatch):
    plotted = {}
    monkeypatch.setattr(
        curves, "_plot_scores", lambda axes, rows, main, unit: plotted.update(rows=rows, main=main)
    )
    scale = 100 if percent else 1
    rows = [{"mIoU": 0.2 * k * scale, "aAcc": 0.3 * k * scale, "step": k} for k in (1, 2)]
    plot_training([{"loss": 1.0, "step": 1}, *rows], tmp_path / "a.png")
    assert plotted["main"] == "mIoU"
    assert [row["mIoU"] for row in plotted["rows"]] == pytest.approx([0.2, 0.4])
    assert [row["aAcc"] for row in plotted["rows"]] == pytest.approx([0.3, 0.6])
    assert [row["step"] for row in plotted["rows"]] == [1, 2]
    monkeypatch.undo()
    plot_training(rows, tmp_path / "b.png")
    assert colored(tmp_path / "b.png", "#1f4e9e") > 100
    assert colored(tmp_path / "b.png", "#8fb3e0") > 100


@pytest.mark.parametrize(
    "rows",
    [
        TRAIN,
        VAL,
        TRAIN[:1],
        [*TRAIN, train_row(300, float("nan"), epoch=3)],
        [train_row(1, float("nan"))],
        [val_row(1, 0.0), val_row(2, float("nan"))],
        [{"loss": 3.0, "iter": 4}],  # no parts, no step
        [{"lr": 0.1, "step": 1}, *VAL],  # rows of neither kind
    ],
)
def test_plot_of_partial_logs(tmp_path, rows):
    path = tmp_path / "curves.png"
    plot_training(rows, path)
    assert Image.open(path).size[0] > 1000


def test_nothing_to_plot(tmp_path):
    with pytest.raises(ValueError, match="got none among 1 row"):
        plot_training([{"lr": 0.1}], tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("training", "steps", "unit"),
    [
        (TRAIN, (1, 2, 3), "epoch"),
        (TRAIN, (100, 200), "iteration"),
        ([train_row(10, 1.0)], (1,), "iteration"),  # no epochs in the log
        ([], (1, 2), "step"),
    ],
)
def test_unit_of_validation_steps(training, steps, unit):
    assert curves._validation_unit(training, list(steps)) == unit


def test_smoothing():
    np.testing.assert_allclose(curves._smooth([3.0] * 100), 3.0)
    line = np.arange(200.0)
    np.testing.assert_allclose(curves._smooth(line.tolist())[10:-10], line[10:-10])  # does not lag
    noisy = np.random.default_rng(0).normal(5, 1, 400)
    assert curves._smooth(noisy.tolist()).std() < 0.4
    noisy[7] = np.nan
    assert np.isfinite(curves._smooth(noisy.tolist())).all()
    assert np.isnan(curves._smooth([float("nan")])).all()


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    code = (
        "import sys; from hardnet_suite.visualization.curves import plot_training;"
        "assert 'matplotlib' not in sys.modules;"
        f"plot_training([{{'loss': 1.0, 'step': 1}}], {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def write_logs(folder, logs):
    for name, rows in logs.items():
        place = folder / name / "vis_data"
        place.mkdir(parents=True)
        (place / "scalars.json").write_text("\n".join(json.dumps(row) for row in rows))


def of_training(*steps):
    return [train_row(step, 1.0) for step in steps]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((50, 100, 150), (200, 250), [50, 100, 150, 200, 250]),  # resumed after all that was logged
        ((50, 100, 150), (150, 200), [50, 100, 150, 200]),  # resumed at 100, before the last row
        ((50, 100, 150), (50, 100), [50, 100]),  # began anew
        ((10, 20, 30), (26, 52), [26, 52]),  # anew, with another interval
        ((50, 125, 200), (125, 200), [50, 125, 200]),  # resumed at 75; the last rows of an epoch are left out
        ((1, 2), (3,), [1, 2, 3]),
    ],
)
def test_rows_that_a_later_log_repeats_are_dropped(tmp_path, first, second, kept):
    write_logs(tmp_path, {"2": of_training(*second), "1": of_training(*first)})
    assert [row["step"] for row in read_run(tmp_path)] == kept


def test_validations_of_an_earlier_run_are_dropped(tmp_path):
    old = [*of_training(10, 20, 30), val_row(1, 0.9), val_row(2, 0.9)]
    write_logs(tmp_path, {"1": old, "2": [*of_training(10, 20), val_row(2, 0.1)]})
    assert [row["step"] for row in read_run(tmp_path)] == [10, 20, 2]
    write_logs(tmp_path, {"3": [*of_training(30, 40), val_row(2, 0.2), val_row(3, 0.3)]})
    assert [row.get("coco/bbox_mAP") for row in read_run(tmp_path)] == [None, None, None, None, 0.2, 0.3]


def test_a_folder_without_a_log(tmp_path):
    with pytest.raises(UserError, match="no training log under"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("metrics", "scores"),
    [
        ({"coco/bbox_AP50": 0.5, "coco/bbox_mAP": 0.25, "time": 1.0}, [("mAP", 0.25), ("AP50", 0.5)]),
        ({"coco/bbox_mAP": 0.25, "coco/bbox_mAP_50": 0.5}, [("mAP", 0.25), ("AP50", 0.5)]),
        ({"coco/bbox_mAP": 0.25, "coco/segm_mAP": 0.2}, [("mAP", 0.25), ("mask mAP", 0.2)]),
        (
            {"coco/PQ": 0.4, "coco/SQ": 0.9, "coco/PQ_things": 0.3, "coco/PQ_stuff": 0.5},
            [("PQ", 0.4), ("PQ of things", 0.3), ("PQ of stuff", 0.5)],
        ),
        ({"top1": np.float32(0.5), "top5": 1}, [("top-1", 0.5), ("top-5", 1.0)]),
        ({"mIoU": 0.5, "mAcc": 0.7, "aAcc": 0.9}, [("mIoU", 0.5), ("pixel accuracy", 0.9)]),
        ({"a": 1, "b": "text", "c": True, "d": 2.0}, [("a", 1.0), ("d", 2.0)]),
        ({}, []),
    ],
)
def test_main_scores(metrics, scores):
    assert main_scores(metrics) == scores


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ((), ["mIoU"]),
        (("meanDice",), ["meanDice", "mIoU"]),
        (("mIoU",), ["mIoU"]),
        (("auto", "MAE", "meanDice"), ["MAE", "meanDice", "mIoU"]),
    ],
)
def test_the_score_that_chooses_comes_first(first, names):
    metrics = {"mIoU": 0.5, "meanDice": 0.6, "MAE": float("nan")}
    assert [name for name, _ in main_scores(metrics, first)] == names


def test_score_names():
    assert [score_name(key) for key in ("coco/bbox_mAP", "coco/bbox_mAP_50", "mine")] == [
        "mAP",
        "AP50",
        "mine",
    ]


@pytest.mark.parametrize(("best", "side"), [(1, "left"), (6, "center"), (12, "right")])
def test_the_best_score_is_written_within_the_axes(tmp_path, monkeypatch, best, side):
    sides = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.annotate", lambda self, *args, **options: sides.append(options["ha"])
    )
    rows = [{"fpr95": 0.4 + 0.01 * (k != best), "step": k} for k in range(1, 13)]
    plot_training([*TRAIN, *rows], tmp_path / "a.png")
    assert sides == [side]


def test_of_the_false_positive_rate_the_lowest_is_the_best(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.annotate", lambda self, text, *args, **options: said.append((text, args[0]))
    )
    rows = [
        {"fpr95": v, "fpr95/a": v / 2, "fpr95/b": 1.5 * v, "step": k}
        for k, v in ((1, 0.3), (2, 0.1), (3, 0.2))
    ]
    plot_training([*TRAIN, *rows], tmp_path / "a.png")
    assert said == [("best 0.1000", (2, 0.1))]
    assert main_scores(rows[0]) == [("FPR95", 0.3)]
    assert score_name("fpr95") == "FPR95"
    assert [score_text(key, 0.01234) for key in ("fpr95", "FPR95", "mAP")] == ["0.0123", "0.0123", "0.012"]
    alone = tmp_path / "alone.png"
    plot_training([*TRAIN, *({"fpr95": row["fpr95"], "step": row["step"]} for row in rows)], alone)
    assert alone.read_bytes() != (tmp_path / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"coco/bbox_mAP": 0.3, "coco/segm_mAP": 0.2, "step": 1}], ["boxes", "masks"]),
        (
            [{"coco/PQ": 0.4, "coco/PQ_things": 0.3, "coco/PQ_stuff": float("nan"), "step": 1}],
            ["things", "stuff", "all"],
        ),
    ],
)
def test_curves_of_masks_and_segments(tmp_path, monkeypatch, rows, expected):
    drawn = []
    plot = Axes.plot

    def note(self, *args, **options):
        drawn.append(options.get("label"))
        return plot(self, *args, **options)

    monkeypatch.setattr(Axes, "plot", note)
    plot_training([*TRAIN, *rows], tmp_path / "a.png")
    assert [label for label in drawn if label in expected] == expected
