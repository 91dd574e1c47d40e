"""The command line itself: its commands, exit statuses and one-line errors."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardnet_suite import cli as package
from hardnet_suite.cli import COMMANDS, main, one_line
from hardnet_suite.errors import UserError, WriteError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def failing(monkeypatch):
    """Makes ``plot`` raise what is given."""

    def install(error: BaseException) -> None:
        def run(args):
            raise error

        monkeypatch.setattr(importlib.import_module("hardnet_suite.cli.plot"), "run", run)

    return install


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_help_and_its_tool(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert COMMANDS[name] in " ".join(out.split())
    assert "--debug" in out
    tool = ROOT / "tools" / f"{name.replace('-', '_')}.py"
    assert f'main(["{name}", *sys.argv[1:]])' in tool.read_text()


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["eval", "coco"], ["plot", "a", "--no-such"]])
def test_wrong_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.endswith("--help shows the usage)\n")
    assert "(hardnet-suite" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("no file x:\n give one"), 2, "error: no file x: give one\n"),
        (KeyError("x"), 1, "error: KeyError: 'x' (--debug shows where)\n"),
        (RuntimeError("first\nsecond"), 1, "error: RuntimeError: first (--debug shows where)\n"),
        (FileNotFoundError(2, "No such file", "a"), 1, "error: a: No such file (--debug shows where)\n"),
        (
            WriteError(30, "Read-only", "a"),
            2,
            "error: cannot write a: Read-only; make it writable, or choose another folder\n",
        ),
        (AssertionError(), 1, "error: AssertionError (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(failing, capsys, error, status, line):
    failing(error)
    assert main(["plot", "folder"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("rank", "start"), [("0", "error: "), ("3", "error on rank 3: ")])
def test_an_error_of_torchruns_other_processes_names_the_rank(failing, capsys, monkeypatch, rank, start):
    monkeypatch.setenv("RANK", rank)
    failing(UserError("no file x"))
    assert main(["plot", "folder"]) == 2
    assert capsys.readouterr().err == f"{start}no file x\n"


def test_debug_lets_the_error_through(failing):
    failing(KeyError("x"))
    with pytest.raises(KeyError):
        main(["plot", "folder", "--debug"])


@pytest.mark.parametrize(
    ("kind", "last", "line"),
    [
        (
            UserError,
            "hardnet_suite.errors.UserError: the image a: b.jpg is broken",
            "the image a: b.jpg is broken",
        ),
        (ValueError, "ValueError: no: way", "ValueError: no: way (--debug shows where)"),
    ],
)
def test_error_of_a_data_loaders_worker(kind, last, line):
    """torch raises it anew with the worker's whole traceback as its message."""
    text = (
        "Caught UserError in DataLoader worker process 0.\n"
        f'Original Traceback (most recent call last):\n  File "x.py", line 1, in y\n{last}\n'
    )
    assert one_line(kind(text)) == line


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from hardnet_suite.cli import main\n"
        "def help(*command):\n"
        "    try: main([*command, '--help'])\n"
        "    except SystemExit: pass\n"
        "help()\n"
        "heavy = {'torch', 'numpy', 'PIL', 'torchvision'} & sys.modules.keys()\n"
        "help('train'), help('test'), help('check-data')\n"
        "heavy |= {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, stdout=subprocess.DEVNULL)


def test_commands_are_described_once():
    folder = Path(package.__file__).parent
    modules = {path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")}
    assert modules == set(COMMANDS)


@pytest.mark.parametrize("name", ["train", "test", "predict"])
@pytest.mark.parametrize("option", ["--bf16", "--amp"])
def test_bfloat16_has_one_name_and_an_alias(name, option):
    parser = argparse.ArgumentParser()
    importlib.import_module(f"hardnet_suite.cli.{name}").add_arguments(parser)
    required = ["image", "--model", "hardnet68"] if name == "predict" else ["config"]
    assert parser.parse_args([*required, option]).bf16 is True
    assert parser.parse_args(required).bf16 is False


@pytest.mark.parametrize("value", ["a=[1,(2", "a=((", "a=[1,2", "a=1,(2"])
def test_options_that_cannot_be_parsed_are_one_line(value, capsys):
    assert main(["train", "ssd512_hardnet68", "--cfg-options", value]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --cfg-options")
    assert err.count("\n") == 1


def test_the_home_folder_in_every_path(monkeypatch, tmp_path):
    """As shells leave it: in ``--out=~/x``, in quotes, in lists; a ~ elsewhere is part of a name."""
    seen = {}
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("predict", "test", "plot"):
        module = importlib.import_module(f"hardnet_suite.cli.{name}")
        monkeypatch.setattr(module, "run", lambda args: seen.update(vars(args)))
    main(["predict", "~/a.jpg", "b~.jpg", "~no one/c.jpg", "--model", "hardnet68", "--out=~/found"])
    assert seen["images"] == [f"{tmp_path}/a.jpg", "b~.jpg", "~no one/c.jpg"]
    assert seen["out"] == f"{tmp_path}/found"
    main(["test", "~/c.py", "--show-dir=~/d", "--data-root=~/e", "--work-dir=~"])
    assert (seen["config"], seen["show_dir"]) == (f"{tmp_path}/c.py", tmp_path / "d")
    assert (seen["data_root"], seen["work_dir"]) == (f"{tmp_path}/e", str(tmp_path))


def test_termination_leaves_no_temporary_folder(tmp_path):
    code = "import sys; from hardnet_suite.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "draw-shapes", "set", "--train", "100000"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        for _ in range(6000):
            if any(tmp_path.glob(".set.*/train2017/*.jpg")):
                break
            time.sleep(0.05)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    assert os.listdir(tmp_path) == []


def swallowed(ending) -> None:
    """What mmengine does with its config's text: a bare except makes another error of whatever comes."""
    try:
        ending()
    except:  # noqa: E722
        raise SyntaxError("Failed to format the config file") from None


def wrapped(ending) -> None:
    try:
        swallowed(ending)
    except SyntaxError as error:
        raise RuntimeError("cannot run") from error


def discarded(ending) -> None:
    with contextlib.suppress(BaseException):
        ending()


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("library", [swallowed, wrapped, discarded])
def test_a_signal_that_a_library_makes_an_error_of(monkeypatch, capsys, library, debug):
    plot = importlib.import_module("hardnet_suite.cli.plot")
    monkeypatch.setattr(plot, "run", lambda args: library(terminate))
    with pytest.raises(SystemExit) as end:
        main(["plot", "folder", *debug])
    assert end.value.code == 128 + signal.SIGTERM
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("library", [swallowed, wrapped])
def test_an_interruption_that_a_library_makes_an_error_of(monkeypatch, capsys, library):
    def interrupt():
        raise KeyboardInterrupt

    plot = importlib.import_module("hardnet_suite.cli.plot")
    monkeypatch.setattr(plot, "run", lambda args: library(interrupt))
    assert main(["plot", "folder"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_forked_process_ends_by_the_signal_itself(monkeypatch):
    statuses = []

    def run(args):
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                os._exit(1)
        statuses.append(os.waitpid(child, 0)[1])

    monkeypatch.setattr(importlib.import_module("hardnet_suite.cli.plot"), "run", run)
    assert main(["plot", "folder"]) == 0
    assert os.WTERMSIG(statuses[0]) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_handler_of_the_process_stays(monkeypatch, handler):
    def run(args):
        assert signal.getsignal(signal.SIGTERM) is handler

    monkeypatch.setattr(importlib.import_module("hardnet_suite.cli.plot"), "run", run)
    before = signal.signal(signal.SIGTERM, handler)
    try:
        assert main(["plot", "folder"]) == 0
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
