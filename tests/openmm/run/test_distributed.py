"""Two ranks on the CPU do what one does."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
import torch
from toy_runs import assert_identical

import hardnet_suite.openmm  # noqa: F401

SCRIPT = Path(__file__).with_name("record_training.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]


@pytest.fixture(scope="module")
def recorded(tiny, run, tmp_path_factory):
    """What one rank with batches of 4, and two ranks with batches of 2 each, saw and computed."""
    config, data = tiny
    folder = tmp_path_factory.mktemp("ranks")
    run(SCRIPT, folder / "one", config, data, folder / "work_one", 4, "none")
    run(*TORCHRUN, SCRIPT, folder / "two", config, data, folder / "work_two", 2, "pytorch")
    load = lambda path: torch.load(path, weights_only=False)  # noqa: E731
    return load(folder / "one/rank0.pth"), [load(folder / f"two/rank{i}.pth") for i in (0, 1)], folder


def test_ranks_see_disjoint_halves_of_the_same_batches(recorded):
    one, two, _ = recorded
    assert len(one["rows"]) == len(two[0]["rows"]) == len(two[1]["rows"]) == 3
    for whole, *halves in zip(one["rows"], two[0]["rows"], two[1]["rows"], strict=True):
        ids = [half["ids"] for half in halves]
        assert not set(ids[0]) & set(ids[1])
        assert sorted(ids[0] + ids[1]) == sorted(whole["ids"])
        # the same augmentation too: the images' pixels add up alike
        assert sorted(halves[0]["sums"] + halves[1]["sums"]) == sorted(whole["sums"])


def test_losses_and_gradients_equal_one_rank(recorded):
    one, two, _ = recorded
    # the first iteration: later ones start from weights that differ by rounding
    mean = (two[0]["rows"][0]["loss"] + two[1]["rows"][0]["loss"]) / 2
    assert mean == pytest.approx(one["rows"][0]["loss"], rel=1e-5)
    assert one["gradients"].keys() == two[0]["gradients"].keys()
    for name, reference in one["gradients"].items():
        tolerance = 1e-4 * reference.abs().max().item() + 1e-7
        for rank in two:
            torch.testing.assert_close(rank["gradients"][name], reference, rtol=1e-3, atol=tolerance)


def test_testing_gathers_without_double_counting(recorded, tiny, run):
    config, data = tiny
    *_, folder = recorded
    found = []
    for name, prefix in (("one", []), ("two", TORCHRUN)):
        work_dir = folder / f"test_{name}"
        launcher = ["--launcher", "pytorch"] if prefix else []
        options = ["--data-root", data, "--work-dir", work_dir, *launcher]
        run(*prefix, "tools/test.py", config, folder / "work_one", *options)
        detections = json.loads((work_dir / "detections.json").read_text())
        found.append(sorted(detections, key=lambda d: (d["image_id"], -d["score"], d["bbox"])))
    assert {d["image_id"] for d in found[0]} == {1, 2, 3}
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        assert (a["image_id"], a["category_id"]) == (b["image_id"], b["category_id"])
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)


def test_all_ranks_end_where_one_diverges(run, tmp_path):
    run(*TORCHRUN, SCRIPT.with_name("diverge.py"), tmp_path)
    errors = [(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)]
    for error in errors:
        assert "the training has diverged at epoch 2, iteration 3" in error
        assert "epoch_1.pth" in error
    assert "the loss of another rank is not finite" in errors[0]
    assert "loss_bad is nan" in errors[1]


@pytest.mark.parametrize(
    ("ending", "buffers"),
    [
        ("SIGKILL", "average"),
        pytest.param("SIGKILL", "copy", marks=pytest.mark.slow),
        pytest.param("SIGTERM", "average", marks=pytest.mark.slow),
    ],
)
def test_ranks_that_end_in_mid_epoch_resume_bit_for_bit(run, launch, tmp_path, ending, buffers):
    """The running statistics of the ranks differ within an epoch; saving leaves them as they are."""
    script = SCRIPT.with_name("train_on_ranks.py")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir(), broken.mkdir()
    run(*TORCHRUN, script, whole, 0, buffers)  # never saves within an epoch

    process = launch(*TORCHRUN, script, broken, 1, buffers, ending, 6)  # 4 iterations an epoch
    output, _ = process.communicate(timeout=300)
    assert process.returncode, output
    assert not (broken / "epoch_2.pth").exists()
    saved = sorted(broken.glob("iter_*.pth"))
    assert [path.name for path in saved] == ["iter_7.pth" if ending == "SIGTERM" else "iter_6.pth"]
    content = torch.load(saved[0], weights_only=False)
    own = [rank["0.norm.running_mean"] for rank in content["rank_buffers"]]
    assert not torch.equal(*own)
    if buffers == "copy":  # what predict reads are the averages, as at the end of an epoch
        torch.testing.assert_close(content["state_dict"]["norm.running_mean"], sum(own) / 2)
    is_within = buffers == "average" and ending == "SIGTERM"  # a step of 3 iterations
    assert len(content.get("accumulated_gradients", {"ranks": []})["ranks"]) == 2 * is_within
    if ending == "SIGTERM":
        assert output.count(f"the run is saved in {saved[0]}") == 2

    run(*TORCHRUN, script, broken, 1, buffers)
    ends = [torch.load(folder / "epoch_3.pth", weights_only=False) for folder in (whole, broken)]
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert_identical(ends[0][part], ends[1][part], part)
    assert "rank_buffers" not in ends[0]
    for name in ("rank0_iter11.pth", "rank1_iter11.pth"):
        assert_identical(*(torch.load(folder / name) for folder in (whole, broken)), name)


@pytest.mark.slow
def test_two_nodes_compute_what_one_computes(run, launch, tmp_path):
    script = SCRIPT.with_name("train_on_ranks.py")
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    run(*TORCHRUN, script, one, 0, "average")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-id", "x", "--rdzv-endpoint", endpoint]
    node = [*TORCHRUN[:2], "--nnodes", 2, "--nproc-per-node", 1, *rendezvous]
    for process in [launch(*node, script, two, 0, "average") for _ in range(2)]:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    ends = [torch.load(folder / "epoch_3.pth", weights_only=False) for folder in (one, two)]
    for part in ("state_dict", "ema_state_dict", "optimizer"):
        assert_identical(ends[0][part], ends[1][part], part)
