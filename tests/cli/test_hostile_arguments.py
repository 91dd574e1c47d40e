"""Numbers and paths near the limits of what an option can be: one line, and exit status 2."""

from __future__ import annotations

import json

import hostile_data
import pytest

from hardnet_suite.cli import main
from hardnet_suite.data.report import escaped
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.checks import require_integer, require_numbers
from hardnet_suite.openmm.run.configs import load_config, parse_options

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
    assert "is empty" in refused(capsys, "eval", "coco", *arguments, "--out", "")


def test_an_empty_checkpoint_is_not_that_of_the_run(capsys):
    assert "'': no such file or folder" in refused(capsys, "test", "fchardnet70_camvid", "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("optim_wrapper.optimizer.lr", value) for value in ("x", True)),
        *(("randomness.seed", value) for value in (-1, 2**32, 10**400, float("nan"), "x", True)),
        *(("train_cfg.max_epochs", value) for value in (0, -1, 10**400, float("nan"), [1])),
        *(("train_cfg.val_interval", value) for value in (0, -1, 1.5)),
        *(("default_hooks.logger.interval", value) for value in (0, -1)),
        *(("optim_wrapper.accumulative_counts", value) for value in (0, -1, 1.5, True, "2")),
        *(("optim_wrapper.clip_grad.max_norm", value) for value in (0, -1, float("nan"), "1", True, None)),
        *(("optim_wrapper.clip_grad.type", value) for value in ("norms", 2)),
        ("optim_wrapper.clip_grad", 5.0),
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


@pytest.mark.parametrize(
    "key", ["a': x('1", "model.\u00b2", "model." + "a." * 60 + "b", "1a", "model.test cfg", "model.a\nb", ""]
)
def test_keys_of_options_are_names(capsys, key):
    """The config of a run is written as Python, with the keys as they are."""
    with pytest.raises(UserError, match=r"expected a key of letters, digits and dots|KEY=VALUE"):
        parse_options([f"{key}=1"])
    assert parse_options(["model.test_cfg.score_thr=0.1", "param_scheduler.0.end=9"])


@pytest.mark.parametrize("name", ["--\x1b[31mred.jpg", "--x\nerror: two.jpg", "\x9b31m"])
def test_unknown_options_do_not_drive_the_terminal(capsys, name):
    with pytest.raises(SystemExit):
        main(["predict", "a.jpg", name, "--model"])
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "\x9b" not in err


@pytest.mark.parametrize("character", "\u202e\u2066\u2028\u2029\x1b\x9b\x00")
def test_hidden_characters_are_printed_as_escapes(character):
    assert escaped(f"a{character}b\n") == f"a{ascii(character)[1:-1]}b\n"


def test_errors_fit_a_terminal(capsys, tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "b.json").write_text(json.dumps([{"image_id": 1, "category_id": 1, "bbox": [1] * 100_000}]))
    files = ["--annotations", f"{tmp_path}/a.json", "--results", f"{tmp_path}/b.json"]
    assert main(["eval", "coco", *files]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err) < 5000


def test_options_are_no_programs():
    with pytest.raises(UserError, match="longer than 10000 characters"):
        parse_options([f"model.x={'(' * 60_000}{')' * 60_000}"])
