"""A resumed run follows the learning rates of its config, also if the checkpoint's schedule was another."""

from __future__ import annotations

import pytest
from mmengine.optim import LinearLR
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.schedules import require_iterations, without_single_steps

PER_EPOCH = 4


def poly(epochs):
    options = {"by_epoch": True, "begin": 0, "end": epochs, "convert_to_iter_based": True}
    return [{"type": "PolyLR", "power": 0.9, "eta_min": 1e-6, **options}]


def cosine(epochs):
    return [{"type": "CosineAnnealingLR", "T_max": epochs, "eta_min": 1e-5, "by_epoch": True, "end": epochs}]


def steps(epochs):
    return [{"type": "MultiStepLR", "milestones": [epochs // 2, epochs - 1], "gamma": 0.1, "by_epoch": True}]


def warm_up(epochs):
    warm = {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": 3 * epochs}
    return [warm, *steps(epochs)]


def one_cycle(epochs):
    return [{"type": "OneCycleLR", "eta_max": 0.5, "total_steps": PER_EPOCH * epochs, "by_epoch": False}]


def exponential(epochs):
    return [{"type": "ExponentialLR", "gamma": 1 - 1 / epochs, "by_epoch": True}]


def restarts(epochs):
    options = {"periods": [epochs, epochs], "restart_weights": [1, 0.5], "eta_min": 1e-4}
    return [{"type": "CosineRestartLR", "by_epoch": True, **options}]


def added(epochs):
    return [*steps(epochs), *(poly(epochs) if epochs > 2 else [])]


def dropped(epochs):
    return [] if epochs > 2 else steps(epochs)


@pytest.mark.parametrize(
    "schedule", [poly, cosine, steps, warm_up, one_cycle, exponential, restarts, added, dropped]
)
@pytest.mark.parametrize("in_mid_epoch", [False, True])
def test_a_longer_schedule_is_followed_from_the_resumed_iteration(toy_train, schedule, in_mid_epoch):
    _, whole = toy_train(toy_config(schedule(4), epochs=4), "whole")
    short = toy_config(schedule(2), epochs=2)
    if in_mid_epoch:
        short.default_hooks.checkpoint.every_iters = 3
        short.model.update(spoil="loss", spoil_at=6)  # stops it after iteration 6 of 8
        with pytest.raises(UserError, match="diverged at epoch 2, iteration 7"):
            toy_train(short)
        resumed_at = 6
    else:
        toy_train(short)
        resumed_at = 8
    _, rates = toy_train(toy_config(schedule(4), epochs=4), resume=True)
    assert rates == pytest.approx(whole[resumed_at:], rel=1e-9)
    assert len(whole) == 16


@pytest.mark.parametrize("schedule", [poly, warm_up, one_cycle])
def test_an_unchanged_schedule_resumes_where_it_was(toy_train, schedule):
    _, whole = toy_train(toy_config(schedule(4), epochs=4), "whole")
    cfg = toy_config(schedule(4), epochs=4)
    cfg.model.update(spoil="loss", spoil_at=8)
    with pytest.raises(UserError):
        toy_train(cfg)
    _, rates = toy_train(toy_config(schedule(4), epochs=4), resume=True)
    assert rates == whole[8:]


@pytest.mark.parametrize("schedule", [lambda epochs: [], poly, steps])
def test_another_base_rate_and_weight_decay_take_effect(toy_train, schedule):
    _, whole = toy_train(toy_config(schedule(4), epochs=4, lr=0.02), "whole")
    toy_train(toy_config(schedule(4), epochs=2))
    cfg = toy_config(schedule(4), epochs=4, lr=0.02)
    cfg.optim_wrapper.optimizer.weight_decay = 0.5
    runner, rates = toy_train(cfg, resume=True)
    assert rates == pytest.approx(whole[8:], rel=1e-9)
    assert runner.optim_wrapper.param_groups[0]["weight_decay"] == 0.5


def test_a_schedule_that_depends_on_scores(toy_train):
    plateau = [{"type": "ReduceOnPlateauLR", "monitor": "loss", "patience": 1}]
    toy_train(toy_config(plateau))
    runner, rates = toy_train(toy_config([plateau[0] | {"patience": 5}], epochs=3), resume=True)
    assert (len(rates), runner.param_schedulers[0].patience, runner.param_schedulers[0].end) == (4, 5, 3)
    for changed in (toy_config([*plateau, *steps(4)], epochs=4), toy_config(plateau, epochs=4, lr=0.3)):
        with pytest.raises(UserError, match="ReduceOnPlateau schedule cannot be recomputed"):
            toy_train(changed, resume=True)


def test_a_training_that_is_shorter_than_the_checkpoint(toy_train):
    toy_train(toy_config(epochs=3))
    toy_train(toy_config(epochs=3), resume=True)  # finished: nothing is left to do
    with pytest.raises(UserError, match="is at epoch 3, beyond the end of the training at 2"):
        toy_train(toy_config(epochs=2), resume=True)


def test_the_configs_own_resume_entry(toy_train):
    toy_train(toy_config(poly(4), epochs=2))
    runner, rates = toy_train(toy_config(poly(4), epochs=4, resume=True))
    assert (runner.iter, len(rates)) == (16, 8)


def by_iterations(schedule, **changes):
    """16 iterations in a loop without epochs, saved by mmengine's hook."""
    cfg = toy_config(schedule, **changes)
    cfg.train_cfg = {"type": "IterBasedTrainLoop", "max_iters": 16}
    cfg.default_hooks.checkpoint = {"type": "CheckpointHook", "by_epoch": False, "interval": 4}
    return cfg


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (cosine(4), "CosineAnnealingLR counts epochs"),
        (steps(4)[0], "MultiStepLR counts epochs"),
        ([{"type": "mmengine.StepLR", "step_size": 1}], "StepLR counts epochs"),
        ([{"type": LinearLR, "start_factor": 0.1}], "LinearLR counts epochs"),
        (warm_up(4), "MultiStepLR counts epochs"),
        ({"one": cosine(4)}, "CosineAnnealingLR counts epochs"),
        ([{"type": "PolyLR", "by_epoch": True, "convert_to_iter_based": True}], "PolyLR has no end"),
    ],
)
def test_a_schedule_in_epochs_is_refused_where_the_loop_has_none(schedule, message):
    with pytest.raises(UserError, match=f"param_scheduler: {message}"):
        require_iterations(schedule)


def test_such_a_schedule_is_refused_before_the_first_iteration(toy_train):
    with pytest.raises(UserError, match="counts epochs"):
        toy_train(by_iterations(steps(4)))


@pytest.mark.parametrize("schedule", [poly(4), one_cycle(4)])
def test_a_schedule_in_iterations_is_the_same_in_both_loops(toy_train, schedule):
    _, whole = toy_train(toy_config(schedule, epochs=4), "whole")
    _, rates = toy_train(by_iterations(schedule))
    assert rates == pytest.approx(whole)
    assert len(set(rates)) == 16


LINEAR = {"type": "LinearLR", "start_factor": 0.1, "begin": 0}
EPOCH = {**LINEAR, "by_epoch": True, "end": 1, "convert_to_iter_based": True}
ITERATION = {**LINEAR, "by_epoch": False, "end": 1}


@pytest.mark.parametrize(
    ("schedule", "batch_size", "said"),
    [
        (EPOCH, 8, "an epoch has one batch: no warm-up"),
        ([EPOCH], 8, "an epoch has one batch: no warm-up"),
        (ITERATION, 8, "param_scheduler: LinearLR of a single iteration has no effect"),
        ([ITERATION], 2, "param_scheduler: LinearLR of a single iteration has no effect"),
        ({**EPOCH, "end": 0.25}, 2, "param_scheduler: LinearLR of a single iteration has no effect"),
        ({**ITERATION, "end": 2}, 8, None),
        (EPOCH, 2, None),
    ],
)
def test_a_warm_up_of_one_iteration_ends(toy_train, schedule, batch_size, said):
    cfg = toy_config(schedule, epochs=3)
    cfg.train_dataloader.batch_size = batch_size
    _, rates = toy_train(cfg)
    assert rates[-1] == pytest.approx(0.1)
    (log,) = toy_train.folder().glob("*/*.log")
    warned = [line for line in log.read_text().splitlines() if "WARNING" in line]
    assert len([line for line in warned if "warm-up" in line or "iteration has" in line]) == bool(said)
    assert said is None or any(said in line for line in warned)


def test_schedules_of_several_optimizers_keep_their_form():
    kept, dropped = without_single_steps({"a": [ITERATION, EPOCH], "b": EPOCH}, 4)
    assert (kept, dropped) == ({"a": [EPOCH], "b": EPOCH}, [ITERATION])
    assert without_single_steps({"b": EPOCH}, 1) == ({"b": []}, [EPOCH])


@pytest.mark.parametrize("loop", ["ResumableEpochLoop", "EpochBasedTrainLoop", "IterBasedTrainLoop"])
@pytest.mark.parametrize("schedule", [poly(2), steps(2)[:0]])
def test_a_longer_training_alone_is_told_in_every_loop(toy_train, loop, schedule):
    for epochs in (2, 3):
        cfg = toy_config(schedule, epochs=epochs)
        cfg.train_cfg.type = loop
        length = "max_epochs"
        if loop == "IterBasedTrainLoop":
            cfg, length = by_iterations(schedule), "max_iters"
            cfg.train_cfg.max_iters = 4 * epochs
        runner, rates = toy_train(cfg, resume=epochs == 3)
    (log,) = (path for path in toy_train.folder().glob("*/*.log") if path.stem == runner.timestamp)
    told = [line for line in log.read_text().splitlines() if "the last schedule ends" in line]
    assert len(rates) == 4
    assert len(told) == bool(schedule)
    assert not told or ("at iteration 8, before" in told[0] and f"train_cfg.{length}" in told[0])


@pytest.mark.parametrize(("seed", "said"), [(0, False), (7, True), (None, False)])
def test_the_seed_of_a_resumed_run(toy_train, seed, said):
    toy_train(toy_config(epochs=1))
    runner, _ = toy_train(toy_config(epochs=2, randomness={"seed": seed}), resume=True)
    assert runner.seed == 0
    (log,) = (path for path in toy_train.folder().glob("*/*.log") if path.stem == runner.timestamp)
    lines = [line for line in log.read_text().splitlines() if "keeps its seed" in line]
    assert len(lines) == said
    assert (
        not lines
        or "the run keeps its seed 0: the config's 7 (--seed, randomness.seed) has no eff" in lines[0]
    )
