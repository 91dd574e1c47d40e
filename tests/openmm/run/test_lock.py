"""Two trainings in one work dir: the second one is refused, and a killed one leaves no lock behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pytest
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.lock import LOCK, TrainingLock

HOLDER = """
import sys, time
from hardnet_suite.openmm.run.lock import sole_training
with sole_training(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@contextmanager
def hold(folder):
    """Another process that trains in the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert any(line == "held\n" for line in process.stdout)  # after what the imports print
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def holder(toy_train):
    with hold(toy_train.folder()) as process:
        yield process


def test_a_second_training_is_refused_until_the_first_is_gone(toy_train, holder):
    with pytest.raises(
        UserError, match=rf"another training runs in .*work \(process {holder.pid} on "
    ) as caught:
        toy_train(toy_config(epochs=1))
    assert "\n" not in str(caught.value)
    assert not list(toy_train.folder().glob("*.pth"))
    holder.kill()
    holder.wait()
    runner, _ = toy_train(toy_config(epochs=1))
    assert runner.iter == 4


def test_a_folder_that_another_training_has_taken_over(tmp_path):
    """It was removed while the first training ran: that one must not write into it."""
    folder = tmp_path / "work"
    lock = TrainingLock(folder)
    assert not lock.is_lost()
    shutil.rmtree(folder)
    folder.mkdir()
    assert lock.is_lost()
    with hold(folder) as process:
        with pytest.raises(UserError, match=f"another training runs in .*process {process.pid} on "):
            lock.renew()
        lock.release()
        assert (folder / LOCK).exists()  # of the other one


def test_nothing_is_left_behind(toy_train):
    for _ in range(2):
        toy_train(toy_config(epochs=1))
    assert not (toy_train.folder() / LOCK).exists()
