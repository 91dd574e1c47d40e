"""Numbers and paths near the limits of what an option can be: one line, and exit status 2."""

from __future__ import annotations

import hostile_data
import pytest

from hardnet_suite.cli import main
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.checks import require_integer, require_numbers
from hardnet_suite.openmm.run.configs import load_config

HUGE = "1" + "0" * 400
LONG = "a" * 5000


def refused(capsys, *arguments) -> str:
    """The one line on standard error of a command that ends with status 2."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        status = stop.code
    errors = capsys.readouterr().err
    assert status == 2, errors
    assert errors.count("\n") == 1
    return errors


@pytest.mark.parametrize(
    "options",
    [
        *(("--size", value) for value in ("0", "-1", "95", "1000000000", HUGE, "1" * 5000, "96.5")),
        *(("--train", value) for value in ("0", "-1", HUGE)),
        *(("--val", value) for value in ("0", "-1", HUGE, "1000000000000")),
        ("--seed", "-1"),
    ],
)
def test_draw_shapes(options, tmp_path, capsys):
    refused(capsys, "draw-shapes", tmp_path / "shapes", *options)
    assert not (tmp_path / "shapes").exists()


@pytest.mark.parametrize(
    "options",
    [
        *(("--score", value) for value in ("nan", "inf", "-1", "1e400", HUGE)),
        *(("--batch-size", value) for value in ("0", "-1", "1e3")),
        *(("--top", value) for value in ("0", "-1", "1" * 5000)),
        *(("--device", value) for value in ("cuda:²", "cuda:" + HUGE, "cuda:-1", "cpu:x")),
    ],
)
def test_predict(options, tmp_path, capsys):
    refused(capsys, "predict", tmp_path / "a.png", "--model", "hardnet39ds", *options)


@pytest.mark.parametrize(
    "arguments",
    [
        ("eval", "coco", "--annotations", LONG, "--results", LONG),
        ("eval", "segmentation", "--annotations", LONG, "--predictions", LONG, "--dataset", "camvid"),
        ("convert-dataset", "voc", LONG, "target"),
        ("draw-shapes", LONG),
        ("plot", LONG),
        ("check-data", LONG),
        ("predict", LONG, "--model", "hardnet39ds"),
        ("predict", "a.png", "--model", LONG),
    ],
)
def test_paths_that_are_too_long(arguments, capsys):
    refused(capsys, *arguments)


def test_an_empty_out_is_refused(tmp_path, capsys):
    hostile_data.write_good_folder(tmp_path)
    arguments = ["--annotations", tmp_path / "annotations.json", "--results", tmp_path / "results.json"]
    assert "cannot write" in refused(capsys, "eval", "coco", *arguments, "--out", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("randomness.seed", value) for value in (-1, 2**32, 10**400, float("nan"), "x", True)),
        *(("train_cfg.max_epochs", value) for value in (0, -1, 10**400, float("nan"), [1])),
        *(("train_cfg.val_interval", value) for value in (0, -1, 1.5)),
        *(("default_hooks.logger.interval", value) for value in (0, -1)),
        *(("optim_wrapper.optimizer.lr", value) for value in (float("nan"), float("inf"), -1, 10**400)),
    ],
)
def test_numbers_of_a_config(key, value):
    cfg = load_config("demo_ssd224_shapes")
    require_numbers(cfg)
    cfg.merge_from_dict({key: value})
    with pytest.raises(UserError, match=f"^{key} is ") as caught:
        require_numbers(cfg)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", [0, 2**70, 1.0, True, "1", None])
def test_integers_of_a_data_loader(value):
    with pytest.raises(UserError, match="batch_size is "):
        require_integer(value, 1, 1000, "batch_size")
