"""Names, the version and completions; a wrong name ends a command before anything heavy is imported."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hardnet_suite
from hardnet_suite.cli import COMMANDS, main

ROOT = Path(hardnet_suite.__file__).parents[1]
HEAVY = {"torch", "mmengine", "mmdet", "mmcv", "cv2", "matplotlib"}
CODE = """
import sys
from hardnet_suite.cli import main
try:
    status = main({arguments!r})
except SystemExit as end:
    status = end.code
print(status, *sorted({heavy!r} & sys.modules.keys()))
"""


def run(*arguments: str, folder: Path, **variables: str) -> subprocess.CompletedProcess:
    code = CODE.format(arguments=list(arguments), heavy=HEAVY)
    env = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "ssd512_hardnet86"], "did you mean ssd512_hardnet85?"),
        (["train", "nosuch/config.py"], "no config nosuch/config.py: "),
        (["train", "hardnet68"], "hardnet68 is a model, not a config: add --data FOLDER"),
        (["train", "ssd512_hardnet68", "--data-root", "nosuch"], "--data-root nosuch: no such folder"),
        (["test", "fchardnet70_camvit"], "did you mean fchardnet70_camvid?"),
        (["check-data", "ssd512-hardnet-68s"], "did you mean ssd512_hardnet68?"),
        (["configs", "demo-ssd244-shapes"], "did you mean demo_ssd224_shapes?"),
        (["predict", "x.jpg", "--model", "HarDNet-86"], "did you mean hardnet85?"),
        (["predict", "x.jpg", "--model", "hardnet68", "--threads", "0"], "--threads 0: expected 1 to 1024"),
        (["predict", "nothere.jpg", "--model", "hardnet68"], "cannot open nothere.jpg: No such file"),
        (["predict", "a.mp4", "b.png", "--model", "hardnet68"], "no video a.mp4"),
        (["predict", "*.jpg", "--model", "hardnet68"], "no images in *.jpg"),
        (["predict", ".", "--model", "./nothere.pth"], "--model ./nothere.pth: no such file or folder"),
        (["predict", ".", "--model", "nothere.safetensors"], "no such file or folder"),
        (["predict", ".", "--model", "work_dirs/foo"], "--model work_dirs/foo: no such file or folder"),
        (["predict", ".", "--model", "nothere.py"], "no config nothere.py: "),
        (["predict", ".", "--model", "ssd320_hardnet39ds", "--weights", "bcd"], "did you mean bccd?"),
        (
            ["predict", ".", "--model", "hardnet68", "--weights", "a/b"],
            "--weights a/b: no such file or folder",
        ),
        (["predict", ".", "--model", "hardnet68", "--batch-size", "0"], "a number of at least 1"),
        (["train", "hardnet68", "--data", "nowhere"], "no folder nowhere: give the folder"),
        (["train", "hardnet86", "--data", "."], "did you mean hardnet85?"),
        (
            ["train", "hardnet68", "--data", ".", "--batch-size", "0"],
            "--batch-size 0: expected a number from 1",
        ),
        (["train", "hardnet68", "--data", ".", "--epochs", "-1"], "--epochs -1: expected a number from 1"),
        (["train", "ssd512_hardnet68"], "no folder data/coco/, the data_root of ssd512_hardnet68"),
        (["test", "fchardnet70_camvid.py"], "no folder data/camvid/, the data_root of fchardnet70_camvid"),
        (["test", "mine.py", "x.pth"], "x.pth: no such file or folder"),
        (["train", "mine.py"], "no folder here/, the data_root of mine.py"),
        (
            ["test", "fchardnet70"],
            "fchardnet70 is a model, not a config: give one of the configs: fchardnet70_c",
        ),
        (["test", "fchardnet70_camvid", "--weights", "camvit"], "did you mean camvid?"),
        (["configs", "ssd512_hardnet68", "--copy", "mine.py"], "mine.py exists"),
        (["configs", "ssd512_hardnet68", "--copy", "mine"], "expected the name of a Python file"),
    ],
)
def test_wrong_names_end_at_once(arguments, said, tmp_path):
    (tmp_path / "mine.py").write_text("_base_ = 'ssd512_hardnet68.py'\ndata_root = 'here/'\n")
    done = run(*arguments, folder=tmp_path)
    assert done.stdout == "2\n"
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_wrong_name_lists_the_others_only_where_none_is_like_it(capsys):
    assert main(["test", "ssd512_hardnet86"]) == 2
    assert capsys.readouterr().err.count("_hardnet") == 2
    assert main(["test", "resnet"]) == 2
    assert capsys.readouterr().err.count("_hardnet") > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predcit", "a.jpg"], "did you mean predict? "),
        (["check_dat", "a"], "did you mean check-data? "),
        (["fly"], "invalid choice: 'fly'; choose from train, test"),
        (["eval", "cocoo"], "did you mean coco? "),
        (["train", "x", "--log", "tensorbord"], "did you mean tensorboard? "),
        (["train", "x", "--precision", "float23"], "did you mean float32? "),
    ],
)
def test_the_nearest_choice(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["Models", "nosuch"],
        ["MODELS", "nosuch"],
        ["Eval", "COCO", "--help"],
        ["Check_Data", "--help"],
        ["train", "nosuch", "--log", "TensorBoard"],
        ["train", "nosuch", "--precision", "BF-16"],
        ["convert-weights", "--to", "Official", "--help"],
    ],
)
def test_words_to_choose_from_in_any_spelling(capsys, arguments):
    with contextlib.suppress(SystemExit):
        main(arguments)
    err = capsys.readouterr().err
    assert "invalid choice" not in err
    assert "--help shows the usage" not in err


def test_words_after_a_command_stay_as_they_are(capsys):
    assert main(["plot", "Train"]) == 2
    assert "Train" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["HarDNet-68", "*HARDNET68*", "hardnet68"])
def test_models_by_a_pattern_in_any_spelling(capsys, pattern):
    assert main(["models", pattern]) == 0
    out = capsys.readouterr().out
    assert {"ssd512_hardnet68", "hardnet68ds"} <= {line.split()[0] for line in out.splitlines()}


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"hardnet-suite {hardnet_suite.__version__}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("hardnet-suite ", set(COMMANDS)),
        ("hardnet-suite pre", {"predict"}),
        ("hardnet-suite predict --mod", {"--model"}),
        ("hardnet-suite train --from", {"--from-scratch"}),
    ],
)
def test_the_shell_completes(line, expected, tmp_path):
    """What argcomplete's shell function asks for, by the variables that it sets."""
    answer = tmp_path / "answer"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    run(folder=tmp_path, **variables)
    assert {word.strip() for word in answer.read_text().splitlines()} >= expected


def test_threads_are_pytorchs(tmp_path):
    code = (
        "import os; from hardnet_suite.cli._options import set_threads; set_threads(1); import torch; "
        "print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "1 1\n"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_waiting_threads_do_not_spin_for_long(tmp_path, variables, expected):
    code = "import os; from hardnet_suite.cli import main; main(['models'])\n"
    code += "print(os.environ.get('GOMP_SPINCOUNT'))"
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env |= {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == expected
