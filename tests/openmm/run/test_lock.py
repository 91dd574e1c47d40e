"""Two trainings in one work dir: the second one is refused, and a killed one leaves no lock behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.lock import LOCK

HOLDER = """
import sys, time
from hardnet_suite.openmm.run.lock import sole_training
with sole_training(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(toy_train):
    """Another process that trains in the work dir."""
    toy_train.folder().mkdir()
    command = [sys.executable, "-c", HOLDER, str(toy_train.folder())]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert any(line == "held\n" for line in process.stdout)  # after what the imports print
        yield process
        process.kill()


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


def test_nothing_is_left_behind(toy_train):
    for _ in range(2):
        toy_train(toy_config(epochs=1))
    assert not (toy_train.folder() / LOCK).exists()
