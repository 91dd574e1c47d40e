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


def with_optimizer(kind: str, *, epochs: int = 1, **options):
    cfg = toy_config(epochs=epochs)
    cfg.optim_wrapper = {"type": "OptimWrapper", "optimizer": {"type": kind, "lr": 0.01, **options}}
    return cfg


def warnings_of(toy_train, runner) -> list[str]:
    (log,) = (path for path in toy_train.folder().glob("*/*.log") if path.stem == runner.timestamp)
    return [line for line in log.read_text().splitlines() if "WARNING" in line]


@pytest.mark.parametrize(
    ("before", "after", "replaced"),
    [
        (("AdamW", {}), ("AdamW", {"maximize": True}), "maximize"),
        (("NAdam", {}), ("NAdam", {"momentum_decay": 0.4}), "momentum_decay"),
        (("AdamW", {"amsgrad": True}), ("AdamW", {}), "amsgrad"),
        (("Adam", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1}), "decoupled_weight_decay"),
        (("AdamW", {"weight_decay": 0.1}), ("Adam", {"weight_decay": 0.1}), "decoupled_weight_decay"),
        (("Adadelta", {}), ("Adadelta", {"rho": 0.5}), "rho"),
        (("ASGD", {}), ("ASGD", {"lambd": 0.5}), "lambd"),
        (("Adagrad", {}), ("Adagrad", {"lr_decay": 0.5}), "lr_decay"),
        (("Rprop", {}), ("Rprop", {"etas": (0.4, 1.3)}), "etas"),
        (("SGD", {}), ("SGD", {"momentum": 0.5, "nesterov": True}), "momentum, nesterov"),
        (("AdamW", {}), ("AdamW", {}), None),
    ],
)
def test_every_option_of_an_optimizer_is_the_configs_after_resuming(toy_train, before, after, replaced):
    toy_train(with_optimizer(before[0], **before[1]))
    fresh, _ = toy_train(with_optimizer(after[0], **after[1]), "fresh")
    runner, _ = toy_train(with_optimizer(after[0], epochs=2, **after[1]), resume=True)
    expected, group = (dict(one.optim_wrapper.param_groups[0], params=None) for one in (fresh, runner))
    assert group == expected
    told = [line for line in warnings_of(toy_train, runner) if "checkpoint's" in line]
    assert [line for line in told if line.endswith(f"the config's {replaced} replaces the checkpoint's")] == (
        told[-1:] if replaced else []
    )
    assert len(told) == bool(replaced) + (before[0] != after[0])
    assert before[0] == after[0] or f"the config's {after[0]} goes on with the state of" in told[0]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (("NAdam", {}), ("RAdam", {}), "has betas, momentum_decay, the config's RAdam has betas"),
        (("Adam", {}), ("NAdam", {}), "has amsgrad, betas, the config's NAdam has betas, momentum_decay"),
        (("RAdam", {}), ("Adamax", {}), r"epoch_1\.pth is RAdam, the config's Adamax"),
        (("AdamW", {}), ("AdamW", {"amsgrad": True}), "amsgrad needs max_exp_avg_sq of the earlier steps"),
        (("RMSprop", {}), ("RMSprop", {"centered": True}), "centered needs grad_avg"),
        (("RMSprop", {}), ("RMSprop", {"momentum": 0.9}), "momentum needs momentum_buffer"),
        (("Adagrad", {}), ("Adagrad", {"initial_accumulator_value": 0.1}), "at the start of a run alone"),
    ],
)
def test_an_optimizer_that_a_checkpoint_has_no_state_for_is_refused(toy_train, before, after, message):
    toy_train(with_optimizer(before[0], **before[1]))
    with pytest.raises(UserError, match=f"^cannot resume: .*{message}") as raised:
        toy_train(with_optimizer(after[0], epochs=2, **after[1]), resume=True)
    assert "\n" not in str(raised.value)


def test_what_schedules_set_is_no_changed_option(toy_train):
    """Also the momentum of Adam, which is one of its betas, and the weight decay of some groups alone."""
    schedule = [{"type": "CosineAnnealingMomentum", "eta_min": 0.5, "T_max": 8, "by_epoch": False}]
    for epochs in (1, 2):
        cfg = with_optimizer("AdamW", epochs=epochs, weight_decay=0.1)
        cfg.param_scheduler = schedule
        cfg.optim_wrapper.paramwise_cfg = {"norm_decay_mult": 0.0}
        runner, _ = toy_train(cfg, resume=epochs == 2)
    assert not [line for line in warnings_of(toy_train, runner) if "replaces" in line]
    cfg.optim_wrapper.paramwise_cfg.norm_decay_mult = 0.5
    cfg.train_cfg.max_epochs = 3
    runner, _ = toy_train(cfg, resume=True)
    assert [line for line in warnings_of(toy_train, runner) if "config's weight_decay replaces" in line]
    decays = {group["weight_decay"] for group in runner.optim_wrapper.param_groups}
    assert decays == {0.1, 0.05}
