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
# every task of the two machines is a process of this one; as Slurm's, it kills them when it gets SIGTERM
echo "srun $*" >> "$CALLS"
shift 2
pids=()
trap 'kill -KILL "${pids[@]}"' TERM
for task in 0 1; do "$@" & pids+=($!); done
echo "${pids[*]}" > "$CALLS.tasks"
status=0
for pid in "${pids[@]}"; do
  wait "$pid"; code=$?
  [ "$code" -eq 0 ] || status=$code
done
exit "$status"
"""
SCANCEL = """#!/bin/bash
echo "scancel $*" >> "$CALLS"
[ "$*" != '--signal=TERM 77' ] || kill -TERM $(cat "$CALLS.tasks")
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
    "SLURM_CPUS_PER_TASK": "64",
}


@pytest.fixture
def start(tmp_path):
    """Starts a script among stand-ins: name -> its text."""
    programs = tmp_path / "bin"
    programs.mkdir()
    processes = []

    def start(script: str, *arguments, stand_ins: dict[str, str], **variables):
        for name, text in ({"srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL} | stand_ins).items():
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
        f"srun --kill-on-bad-exit=1 --cpus-per-task=64 {command}",
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
    assert calls(tmp_path)[4:] == ["scancel --signal=TERM 77", "saved", "saved", *queued]


def predict(start, *arguments, program: str) -> tuple[int, str]:
    process = start(
        "predict.sbatch", *arguments, stand_ins={"hardnet-suite": program}, SLURM_ARRAY_TASK_ID="7"
    )
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


@pytest.mark.parametrize("folder", ["", "/data/100%/"])
def test_a_shard_is_predicted_once(start, tmp_path, folder):
    """Unless an image could not be read."""
    folder = folder.replace("%", "%%")  # as printf takes it
    (tmp_path / "found").mkdir()
    program = '#!/bin/bash\necho "hardnet-suite $*" >> "$CALLS"\n'
    arguments = (f"{folder}part-%03d.tar", tmp_path / "found", "--model", "hardnet68")
    lines = tmp_path / "found/part-007.jsonl"
    name = folder.replace("%%", "%") + "part-007.tar"
    for content, count in (
        (None, 1),
        ('{"name": "a", "error": "no image"}\n', 2),
        ('{"name": "a", "task": "detection"}\n', 2),
    ):
        if content is not None:
            lines.write_text(content)
        status, output = predict(start, *arguments, program=program)
        assert status == 0, output
        assert (
            calls(tmp_path)
            == [f"hardnet-suite predict {name} --model hardnet68 --out {tmp_path}/found/part-007.jsonl"]
            * count
        )
    assert "done already" in output


@pytest.mark.parametrize("pattern", ["shard.tar", "shard-%03d/images.tar"])
def test_tasks_do_not_share_a_file(start, tmp_path, pattern):
    program = '#!/bin/bash\necho "hardnet-suite $*" >> "$CALLS"\n'
    status, output = predict(start, pattern, tmp_path, "--model", "hardnet68", program=program)
    assert status == 2
    assert "the file's own name needs the number of the task" in output
    assert not (tmp_path / "calls").exists()
