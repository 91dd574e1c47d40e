"""What a checkpoint may say to a run that resumes it: a wrong entry is one line."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import accumulation, buffers

KEY, VARIANCE = "0.running_mean", "0.running_var"
WRONG_BUFFERS = ["x", torch.ones(1), torch.ones(4), torch.full((3,), 1 + 5j), torch.full((3,), float("nan"))]

WRONG = [
    (("meta", "epoch"), "x"),
    (("meta", "epoch"), -5),
    (("meta", "iter"), -1),
    (("meta", "iter"), 10**9),
    (("message_hub",), 5),
    (("message_hub", "runtime_info"), 5),
    (("message_hub", "runtime_info", "batches_per_epoch"), "x"),
    (("optimizer", "state"), "x"),
    (("optimizer", "param_groups"), 5),
    (("state_dict", "norm.running_mean"), torch.full((3,), 1 + 5j)),
    (("state_dict", "norm.running_mean"), torch.ones(4)),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda value: str(value)[:40].replace("\n", ""))
def test_a_wrong_entry_is_one_line(toy_train, path, value):
    toy_train(toy_config(epochs=1))
    file = toy_train.folder() / "epoch_1.pth"
    content = torch.load(file, weights_only=False)
    table = content
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    torch.save(content, file)
    with pytest.raises(UserError, match=r"cannot resume: .*epoch_1\.pth") as caught:
        toy_train(toy_config(epochs=2), resume=True)
    assert "\n" not in str(caught.value)


def test_buffers_of_ranks_are_for_several_ranks(toy_train):
    toy_train(toy_config(epochs=1))
    file = toy_train.folder() / "epoch_1.pth"
    content = torch.load(file, weights_only=False)
    mean = content["state_dict"]["norm.running_mean"].clone()
    content["rank_buffers"] = [{"0.norm.running_mean": torch.full((3,), 9.0)}]
    torch.save(content, file)
    cfg = toy_config(epochs=1)
    runner, _ = toy_train(cfg, resume=True)
    assert torch.equal(runner.model.norm.running_mean, mean)


@pytest.mark.parametrize(
    "value",
    [5, torch.ones(2), [1, 2], [{}, {}], *([{KEY: wrong}] * 2 for wrong in WRONG_BUFFERS)],
    ids=lambda value: str(value)[:50].replace("\n", ""),
)
def test_wrong_buffers_of_ranks_are_one_line(monkeypatch, value):
    monkeypatch.setattr(buffers, "get_world_size", lambda: 2)
    monkeypatch.setattr(buffers, "get_rank", lambda: 1)
    runner = SimpleNamespace(model=torch.nn.BatchNorm1d(3), hooks=[])
    with pytest.raises(UserError, match="the checkpoint's rank_buffers are damaged"):
        buffers.restore_buffers(runner, value)
    assert torch.equal(runner.model.running_mean, torch.zeros(3))


def test_the_buffers_of_a_rank_are_its_own(monkeypatch):
    monkeypatch.setattr(buffers, "get_world_size", lambda: 2)
    monkeypatch.setattr(buffers, "get_rank", lambda: 1)
    runner = SimpleNamespace(model=torch.nn.BatchNorm1d(3), hooks=[])
    ranks = [{KEY: torch.full((3,), float(rank)), VARIANCE: torch.ones(3)} for rank in (1, 2)]
    buffers.restore_buffers(runner, ranks)
    assert torch.equal(runner.model.running_mean, torch.full((3,), 2.0))
    buffers.restore_buffers(runner, ranks[:1])  # of another number of ranks
    assert torch.equal(runner.model.running_mean, torch.full((3,), 2.0))


def test_buffers_of_averages_that_begin_on_resuming_are_in_no_checkpoint(monkeypatch):
    monkeypatch.setattr(buffers, "get_world_size", lambda: 2)
    monkeypatch.setattr(buffers, "get_rank", lambda: 1)
    hook = EMAHook()
    hook.ema_model = SimpleNamespace(module=torch.nn.BatchNorm1d(3))
    runner = SimpleNamespace(model=torch.nn.BatchNorm1d(3), hooks=[hook])
    ranks = [{KEY: torch.full((3,), float(rank)), VARIANCE: torch.ones(3)} for rank in (1, 2)]
    buffers.restore_buffers(runner, ranks)
    assert torch.equal(runner.model.running_mean, torch.full((3,), 2.0))
    assert torch.equal(hook.ema_model.module.running_mean, torch.zeros(3))
    ranks[0]["1.running_mean"] = ranks[1]["1.running_mean"] = torch.ones(3)  # without its variance
    with pytest.raises(UserError, match=r"rank_buffers are damaged \(1\.running_var\)"):
        buffers.restore_buffers(runner, ranks)


GRADIENT = {"weight": torch.ones(3), "bias": torch.ones(3)}
GOOD = {"counts": 3, "scale": 1 / 3, "ranks": [GRADIENT, GRADIENT]}


@pytest.mark.parametrize(
    "value",
    [
        5,
        {},
        GOOD | {"counts": "3"},
        *(GOOD | {"scale": wrong} for wrong in (0.0, 2.0, float("nan"), "x")),
        *(GOOD | {"loss_scale": wrong} for wrong in (0.0, 2, float("nan"), float("inf"), "x")),
        *(
            GOOD | {"ranks": wrong}
            for wrong in (5, [], [1], torch.ones(2), [GRADIENT, {"other": torch.ones(3)}])
        ),
        *(GOOD | {"ranks": [{"weight": wrong}]} for wrong in ("x", torch.ones(4), torch.ones(3).long())),
        GOOD | {"ranks": [{"another": torch.ones(3)}]},
    ],
    ids=lambda value: str(value)[:60].replace("\n", ""),
)
def test_wrong_accumulated_gradients_are_one_line(value):
    runner = accumulating_runner()
    with pytest.raises(UserError, match="the checkpoint's accumulated_gradients are damaged"):
        accumulation.restore_gradients(runner, value)
    assert runner.model.weight.grad is None


def accumulating_runner() -> SimpleNamespace:
    model = torch.nn.BatchNorm1d(3)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=3)
    wrapper.initialize_count_status(model, 4, 9)
    return SimpleNamespace(model=model, optim_wrapper=wrapper, iter=4, logger=logging.getLogger("toy"))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_accumulated_gradients_of_ranks_are_their_own_or_their_average(monkeypatch, ranks):
    monkeypatch.setattr(accumulation, "get_world_size", lambda: 2)
    monkeypatch.setattr(accumulation, "get_rank", lambda: 1)
    runner, values = accumulating_runner(), [1.0, 5.0, 9.0][:ranks]
    saved = [{"weight": torch.full((3,), value)} for value in values]
    accumulation.restore_gradients(runner, GOOD | {"ranks": saved})
    assert torch.equal(runner.model.weight.grad, torch.full((3,), 5.0 if ranks > 1 else 1.0))
    assert runner.model.bias.grad is None


class Scaler:
    """As a ``GradScaler`` on a GPU."""

    def get_scale(self) -> float:
        return 65536.0


@pytest.mark.parametrize(
    ("saved", "is_scaled", "factor"),
    [
        (65536.0, False, 2.0**-16),
        (65536.0, True, 1.0),
        (1.0, True, 65536.0),
        (1.0, False, 1.0),
        (None, True, 1.0),
    ],
)
def test_accumulated_gradients_follow_the_scale_of_float16(saved, is_scaled, factor):
    runner = accumulating_runner()
    if is_scaled:
        runner.optim_wrapper.loss_scaler = Scaler()
    known = {} if saved is None else {"loss_scale": saved}
    accumulation.restore_gradients(runner, GOOD | known | {"ranks": [GRADIENT]})
    assert torch.equal(runner.model.weight.grad, torch.full((3,), factor))
    again = accumulation.accumulated_gradients(runner)
    assert again["loss_scale"] == (65536.0 if is_scaled else 1.0)
