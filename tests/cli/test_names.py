"""Names, the version and completions; a wrong name ends a command before anything heavy is imported."""

from __future__ import annotations

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
    ],
)
def test_wrong_names_end_at_once(arguments, said, tmp_path):
    done = run(*arguments, folder=tmp_path)
    assert done.stdout == "2\n"
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


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
