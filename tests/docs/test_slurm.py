"""The batch scripts of docs/slurm among stand-ins of Slurm: what they start, and what signals do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "docs/slurm"
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
SRUN = """#!/bin/bash
# every task of the two machines is a process of this one
echo "srun $*" >> "$CALLS"
shift
pids=()
trap 'for pid in "${pids[@]}"; do kill -TERM "$pid"; done' TERM
for task in 0 1; do "$@" & pids+=($!); done
status=0
for pid in "${pids[@]}"; do
  wait "$pid"; code=$?
  while kill -0 "$pid" 2> /dev/null; do wait "$pid"; code=$?; done
  [ "$code" -eq 0 ] || status=$code
done
exit "$status"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
[ "$1" != show ] || printf '127.0.0.1\\nnode-b\\n'
"""
SLURM = {
    "SLURM_JOB_NODELIST": "node-[a-b]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_GPUS_ON_NODE": "1",
    "SLURM_JOB_ID": "77",
}


@pytest.fixture
def start(tmp_path):
    """Starts a script among stand-ins: name -> its text."""
    programs = tmp_path / "bin"
    programs.mkdir()
    processes = []

    def start(script: str, *arguments, stand_ins: dict[str, str], **variables):
        for name, text in ({"srun": SRUN, "scontrol": SCONTROL} | stand_ins).items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | SLURM | {"PATH": path, "CALLS": str(tmp_path / "calls")} | variables
        process = subprocess.Popen(
            ["bash", str(SCRIPTS / script), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def calls(folder) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.iterdir()))
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", SCRIPTS / script], check=True)


@pytest.mark.parametrize("status", [0, 3])
def test_both_machines_meet_at_the_first(start, tmp_path, status):
    torchrun = f'#!/bin/bash\necho "torchrun $*" >> "$CALLS"\nexit {status}\n'
    process = start("train.sbatch", "hardnet68_imagenet", "--seed", 0, stand_ins={"torchrun": torchrun})
    process.communicate(timeout=60)
    assert process.returncode == status
    command = (
        "torchrun --nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 127.0.0.1:29500 "
        "--rdzv-id 77 -m hardnet_suite train hardnet68_imagenet --seed 0 --launcher pytorch --resume"
    )
    assert calls(tmp_path) == [
        "scontrol show hostnames node-[a-b]",
        f"srun --kill-on-bad-exit=1 {command}",
        command,
        command,
    ]  # an error of its own is not queued again


@pytest.mark.parametrize(("status", "queued"), [(1, ["scontrol requeue 77"]), (0, [])])
def test_a_signal_reaches_the_ranks_and_the_job_is_queued_again(start, tmp_path, status, queued):
    """Unless the training was complete all the same."""
    torchrun = (
        f'#!/bin/bash\ntrap \'sleep 1; echo "saved" >> "$CALLS"; exit {status}\' TERM\n'
        'echo "started" >> "$CALLS"\nfor i in {1..600}; do sleep 0.1; done\n'
    )
    process = start("train.sbatch", "hardnet68_imagenet", stand_ins={"torchrun": torchrun})
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls").exists() or calls(tmp_path).count("started") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert calls(tmp_path)[4:] == ["saved", "saved", *queued]


def test_a_shard_is_predicted_once(start, tmp_path):
    (tmp_path / "found").mkdir()
    program = '#!/bin/bash\necho "hardnet-suite $*" >> "$CALLS"\ntouch "$CALLS.out"\n'
    arguments = ("part-%03d.tar", tmp_path / "found", "--model", "hardnet68")
    for _ in range(2):
        process = start(
            "predict.sbatch", *arguments, stand_ins={"hardnet-suite": program}, SLURM_ARRAY_TASK_ID="7"
        )
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        (tmp_path / "found/part-007.jsonl").touch()
    assert "done already" in output
    assert calls(tmp_path) == [
        f"hardnet-suite predict part-007.tar --model hardnet68 --out {tmp_path}/found/part-007.jsonl"
    ]
