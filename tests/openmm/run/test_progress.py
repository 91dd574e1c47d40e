"""What a training shows on the console: a live line on terminals, a few lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import struct
import sys
import termios
import warnings
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from mmengine.runner.utils import calc_dynamic_intervals
from toy_runs import toy_config

from hardnet_suite.data.report import has_live_line
from hardnet_suite.openmm.run import progress
from hardnet_suite.openmm.run.logs import announce, quiet_console, say, set_console
from hardnet_suite.openmm.run.loops import ResumableEpochLoop
from hardnet_suite.openmm.run.progress import ProgressLineHook


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def runner():
    MMLogger._instance_dict.clear()
    return make_runner(MMLogger.get_instance("progress"))


def make_runner(logger):
    """A runner of 12 iterations in 3 epochs, which has done none; its loop counts by epochs."""
    loop = object.__new__(progress.EpochBasedTrainLoop)
    loop.__dict__.update(_max_epochs=3, _max_iters=12, val_interval=1, val_begin=1)
    return SimpleNamespace(
        iter=0,
        epoch=0,
        max_epochs=3,
        max_iters=12,
        train_dataloader=range(4),
        train_loop=loop,
        _train_loop=loop,
        val_loop=None,
        val_dataloader=range(5),
        test_dataloader=range(6),
        logger=logger,
        message_hub=SimpleNamespace(runtime_info={}),
        hooks=[],
    )


def step(hook, runner, loss=1.25):
    batch = {"inputs": [0, 0]}
    hook.after_train_iter(runner, runner.iter % 4, batch, {"loss": torch.tensor(loss, requires_grad=True)})
    runner.iter += 1


@pytest.fixture
def clock(monkeypatch):
    """Seconds, which pass when the test says so."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.seconds)
    return now


def test_a_live_line_on_terminals(monkeypatch, runner, clock, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    hook = ProgressLineHook()
    hook.before_train(runner)
    for _ in range(2):
        clock.seconds += 1
        step(hook, runner)
    shown = sys.stderr.getvalue()
    last = shown.rsplit("\r", 1)[-1]
    assert "epoch 1/3" in last
    assert "2/4" in last
    assert "loss 1.25  2.0 img/s  0:00:10 left" in last
    assert "\n" not in shown
    hook.after_train_epoch(runner)
    assert sys.stderr.getvalue().rsplit("\r", 1)[-1].strip() == ""  # the line is gone
    assert "img/s" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "columns", "live"), [(24, 80, True), (0, 0, False), (0, 120, False), (50, 0, False)]
)
def test_a_terminal_without_a_size_gets_lines(monkeypatch, runner, clock, capsys, rows, columns, live):
    """tqdm shows nothing on one of 0 rows, such as that of ``script``."""
    master, slave = os.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with open(slave, "w", closefd=False) as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            assert has_live_line(stream) is live
            with quiet_console():
                set_console(runner.logger)
                hook = ProgressLineHook()
                hook.before_train(runner)
                clock.seconds += 1
                step(hook, runner)
                hook.close()
    finally:
        os.close(slave)
        os.close(master)
    assert ("epoch 1/3  1/4  loss 1.25" in capsys.readouterr().out) is not live


@pytest.mark.parametrize("stream", [None, io.StringIO(), Terminal()])
def test_streams_that_are_no_terminals(stream):
    assert has_live_line(stream) is isinstance(stream, Terminal)


def test_an_error_that_a_library_logs_is_a_warning(runner, capsys):
    """mmdet goes on after "The testing results of the whole dataset is empty."."""
    with quiet_console():
        set_console(runner.logger)
        record = runner.logger.makeRecord(
            "mmengine", 40, "/site-packages/mmdet/coco_metric.py", 1, "empty", (), None
        )
        runner.logger.handle(record)
    assert "warning: empty" in capsys.readouterr().err


def test_a_live_line_is_renewed_ten_times_a_second(monkeypatch, runner, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    hook = ProgressLineHook()
    hook.before_train(runner)
    for _ in range(12):
        clock.seconds += 0.03
        step(hook, runner, loss=float(runner.iter))
    hook.close()
    states = [state for state in sys.stderr.getvalue().split("\r") if "img/s" in state]
    assert [state.partition("loss ")[2][0] for state in dict.fromkeys(states)] == ["0", "4", "8"]


def test_lines_are_printed_above_the_live_one(monkeypatch, runner, clock):
    both = Terminal()
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setattr(sys, "stdout", both)
    with quiet_console():
        set_console(runner.logger)
        hook = ProgressLineHook()
        hook.before_train(runner)
        clock.seconds += 1
        step(hook, runner)
        say(runner.logger, "above")
        hook.close()
    (line,) = (line for line in both.getvalue().split("\n") if line.endswith("above"))
    assert line.rsplit("\r", 1)[-1] == "above"


def test_the_log_of_a_verbose_run_is_printed_above_the_live_line(monkeypatch, clock, capsys):
    both = Terminal()
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setattr(sys, "stdout", both)
    MMLogger._instance_dict.clear()
    logger = MMLogger.get_instance("verbose")
    with quiet_console(verbose=True):
        set_console(logger)
    hook, run = ProgressLineHook(), make_runner(logger)
    hook.before_train(run)
    clock.seconds += 1
    step(hook, run)
    logger.info("above")
    hook.close()
    (line,) = (line for line in both.getvalue().split("\n") if line.endswith("above"))
    assert "img/s" not in line.rsplit("\r", 1)[-1]


def test_a_training_that_is_done_already_says_so(runner, capsys):
    runner.iter = 12
    with quiet_console():
        set_console(runner.logger)
        ProgressLineHook().before_train(runner)
    assert capsys.readouterr().out == "schedule: 3 epochs of 4 iterations; all of them are done already\n"


def test_without_a_terminal_lines_are_few(runner, clock, capsys):
    runner.max_iters, runner.train_dataloader, runner.max_epochs = 100_000, range(1000), 100
    with quiet_console():
        set_console(runner.logger)
        hook = ProgressLineHook()
        hook.before_train(runner)
        for runner.iter in range(100_000):
            clock.seconds += 1
            hook.after_train_iter(runner, runner.iter % 1000, {"inputs": [0]}, {"loss": 1.0})
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0] == "schedule: 100 epochs of 1,000 iterations"
    assert lines[1].startswith("epoch 1/100  1/1000  loss 1  1.0 img/s")
    assert 150 < len(lines) < 250


@pytest.mark.parametrize("title", ["validating", "testing"])
def test_long_scoring_says_where_it_is(runner, clock, capsys, title):
    name = {"validating": "val", "testing": "test"}[title]
    hook = ProgressLineHook()
    with quiet_console():
        set_console(runner.logger)
        getattr(hook, f"before_{name}_epoch")(runner)
        for index in range(5):
            clock.seconds += 20
            getattr(hook, f"after_{name}_iter")(runner, index, {"inputs": [0] * 10}, [])
    total = {"val": 5, "test": 6}[name]
    assert capsys.readouterr().out.splitlines() == [
        f"{title}  2/{total}  0.5 img/s",
        f"{title}  4/{total}  0.5 img/s",
    ]


def test_a_line_per_validation(runner, clock, capsys):
    hook = ProgressLineHook()
    info = runner.message_hub.runtime_info
    with quiet_console():
        set_console(runner.logger)
        hook.before_train(runner)
        for runner.epoch, score in ((1, 0.25), (2, 0.125), (3, float("nan"))):
            hook.before_val_epoch(runner)
            if score == 0.25:
                info["best_score"] = score
            hook.after_val_epoch(runner, {"coco/bbox_mAP": score / 2, "coco/bbox_AP50": score, "time": 3.0})
    assert capsys.readouterr().out.splitlines()[1:] == [
        "epoch 1/3: mAP 0.125  AP50 0.250  (best so far)",
        "epoch 2/3: mAP 0.062  AP50 0.125",
        "epoch 3/3: mAP nan  AP50 nan",
    ]


def test_the_line_of_a_validation_begins_with_the_score_that_chooses(runner, clock, capsys):
    hook = ProgressLineHook()
    chooser = CheckpointHook(save_best="meanDice", rule="greater")
    runner.hooks = [chooser, hook]
    with quiet_console():
        set_console(runner.logger)
        hook.before_train(runner)
        hook.before_val_epoch(runner)
        hook.after_val_epoch(runner, {"mIoU": 0.5, "meanDice": 0.625})
    assert capsys.readouterr().out.splitlines()[-1].endswith(": meanDice 0.625  mIoU 0.500")


def test_memory_of_the_gpu(monkeypatch, runner, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    hook = ProgressLineHook()
    hook.before_train(runner)
    clock.seconds += 1
    step(hook, runner)
    hook.close()
    assert "left  1.5 GiB" in sys.stderr.getvalue()


def test_other_ranks_show_nothing(monkeypatch, runner, clock):
    monkeypatch.setattr(progress, "is_main_process", lambda: False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    hook = ProgressLineHook()
    hook.before_train(runner)
    step(hook, runner)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 4, {"inputs": [0]}, [])
    assert sys.stderr.getvalue() == ""


def test_a_quiet_training(toy_train, capsys):
    """Ten lines or so, whatever mmengine logs; the file has everything."""
    with quiet_console():
        toy_train(toy_config(epochs=30, log_level="INFO"))
    out, err = capsys.readouterr()
    assert err == ""
    names = [line.partition(":")[0] for line in out.splitlines()]
    assert names[:6] == ["weights", "model", "device", "folder", "log", "train"]  # mmengine's data set
    assert "schedule: 30 epochs of 4 iterations of 2 images" in out
    assert "epoch 1/30  1/4  loss " in out
    assert len(names) < 12
    (log,) = toy_train.folder().glob("*/*.log")
    assert str(log) in out
    text = log.read_text()
    assert text.count("Epoch(train)") == 120
    assert "weights: random (seed 0)" in text
    assert "Hooks will be executed" in text


def test_without_quiet_console_the_log_is_shown(toy_train, capsys):
    with quiet_console(verbose=True):
        toy_train(toy_config(epochs=1, log_level="INFO"))
    out = capsys.readouterr().out
    assert out.count("Epoch(train)") == 4
    assert "weights: random (seed 0)" in out


@HOOKS.register_module()
class Warn(Hook):
    def before_train(self, runner) -> None:
        runner.logger.warning("of another package")
        warnings.warn("Python's, of another package", stacklevel=1)


def test_warnings_of_others_go_to_the_file(toy_train, capsys):
    """Also those of Python; the suite's own are shown, as one line each."""
    cfg = toy_config(epochs=3, log_level="INFO", custom_hooks=[{"type": "Warn"}])
    cfg.param_scheduler = [{"type": "ConstantLR", "factor": 1.0, "begin": 0, "end": 2, "by_epoch": True}]
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with quiet_console():
            toy_train(cfg)
    assert warnings.showwarning is before
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("warning: the last schedule ends at epoch 2")
    (log,) = toy_train.folder().glob("*/*.log")
    text = log.read_text()
    for message in ("of another package", "Python's, of another package", "the last schedule ends"):
        assert message in text
    assert "of another package" not in out


def test_control_characters_do_not_reach_the_terminal(capsys):
    MMLogger._instance_dict.clear()
    logger = MMLogger.get_instance("hostile")
    with quiet_console():
        set_console(logger)
        announce(logger, "a\x1b[2Jb")
        say(logger, "c\x07")
    assert capsys.readouterr().out == "a\\x1b[2Jb\nc\\x07\n"


def test_a_console_that_is_closed_ends_no_training(toy_train, monkeypatch, capsys):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    with quiet_console(), monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        runner, _ = toy_train(toy_config(epochs=2, log_level="INFO"))
    assert runner.iter == 8
    assert "the log cannot be printed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("epochs", "options", "expected", "validated"),
    [
        (3, {}, "validation every epoch", [1, 2, 3]),
        (4, {"val_interval": 2}, "validation every 2 epochs", [2, 4]),
        (4, {"val_interval": 4}, "validation every 4 epochs", [4]),
        (4, {"val_interval": 9}, "validation after epoch 4", [4]),
        (5, {"val_interval": 2, "val_begin": 3}, "validation after epoch 4, 5", [4, 5]),
        (
            5,
            {"val_interval": 4, "val_begin": 2, "dynamic_intervals": [(3, 1)]},
            "validation after epoch 2, 3, 4, 5",
            [2, 3, 4, 5],
        ),
        (3, {"val_begin": 9}, "no validation", []),
        (20, {"val_begin": 3}, "18 validations, the first after epoch 3", list(range(3, 21))),
    ],
)
def test_the_schedule_names_the_epochs_of_validation(epochs, options, expected, validated):
    """What the line says is what the loop then does."""
    calls = []
    loop = object.__new__(ResumableEpochLoop)
    given = {"val_interval": 1, "val_begin": 1, "dynamic_intervals": None} | options
    milestones, intervals = calc_dynamic_intervals(given["val_interval"], given["dynamic_intervals"])
    loop.__dict__.update(given, dynamic_milestones=milestones, dynamic_intervals=intervals)
    val_loop = SimpleNamespace(run=lambda: calls.append(loop._epoch))
    loop.__dict__.update(_max_epochs=epochs, _runner=SimpleNamespace(val_loop=val_loop))
    assert progress._validations(loop, epochs) == expected
    for epoch in range(1, epochs + 1):
        loop._epoch = epoch
        loop._decide_current_val_interval()
        loop._validate_if_due()
    assert calls == validated
