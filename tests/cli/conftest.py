"""A tiny drawn data set, the smallest SSD on it, and one short training that several tests look at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope

from hardnet_suite.cli import main
from hardnet_suite.data.shapes import write_shapes

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
_base_ = "{root}/configs/demo_ssd224_shapes.py"
train_dataloader = dict(batch_size=2, num_workers=2)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
test_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
train_cfg = dict(max_epochs=1, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope="session")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG.format(root=ROOT))
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """COCO layout: 4 training images, so 2 iterations an epoch, and 3 held-out ones. Not to be changed."""
    return write_shapes(tmp_path_factory.mktemp("drawn") / "shapes", train=4, val=3, size=96)


@pytest.fixture
def data(drawn, tmp_path) -> Path:
    """The same, to be spoilt."""
    return shutil.copytree(drawn, tmp_path / "data")


@pytest.fixture(scope="session")
def trained(config, drawn, tmp_path_factory) -> Path:
    """The folder of a finished run of ``train``: 2 iterations, epoch_1.pth."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["train", config, "--data-root", drawn, "--work-dir", folder, "--seed", 3]
    assert main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(autouse=True)
def _fresh_process():
    """As in a process of its own: mmengine keeps its loggers, which go on writing to the stdout of the test
    that made them, and its scope, of which it warns where the next config has another.
    """
    MMLogger._instance_dict.clear()
    DefaultScope._instance_dict.clear()


@pytest.fixture
def cli(capsys):
    """Runs the command line in this process; returns (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def error_of(cli):
    """The one line on stderr of a command that must fail in a way the user can put right."""

    def run(*arguments: object) -> str:
        status, _, err = cli(*arguments)
        assert status == 2, err
        assert err.count("\n") == 1, err
        assert err.startswith("error: ")
        return err

    return run
