"""Averaged weights of a resumed run: what becomes of them where its config averages otherwise."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

from mmengine.hooks import EMAHook

from hardnet_suite.weights.tables import few

# of a checkpoint: mmengine saves the weights in training there, under the names of the averages
_AVERAGES = "ema_state_dict"
_RULE = "averaged_by"  # among mmengine's runtime information


def load_averages(runner, checkpoint: dict[str, Any], filename: str) -> None:
    """Calls ``after_load_checkpoint`` of the hooks of a resumed run, so that the weights in training resume.

    mmengine saves the averages in their place. Without a hook that takes those, they are dropped, and the log
    says so; as it does where averages begin on resuming.

    Args:
        runner: That is resumed.
        checkpoint: Its checkpoint, which is modified.
        filename: Of the checkpoint, for the log.
    """
    before = dict(checkpoint.get("state_dict") or {})
    runner.call_hook("after_load_checkpoint", checkpoint=checkpoint)
    if _hook_of(runner) is not None:
        if _AVERAGES not in checkpoint:
            runner.logger.warning(f"{filename} has no averaged weights: those of the EMAHook begin here")
        return
    state, trained = checkpoint.get("state_dict"), _trained_weights(checkpoint.get(_AVERAGES))
    if not trained or not isinstance(state, MutableMapping):
        return
    if any(state.get(key) is not before.get(key) for key in trained):  # swapped by a hook of another kind
        return
    del checkpoint[_AVERAGES]
    state.update(trained)
    runner.logger.warning(
        f"{filename} has averaged weights, but the config no EMAHook: the averages are dropped, and the "
        "training resumes from the weights that it had reached"
    )


def compare_averages(runner) -> None:
    """Logs where a resumed run averages by another rule than the checkpoint's did."""
    saved, rule = runner.message_hub.runtime_info.get(_RULE), averaging_rule(runner)
    if isinstance(saved, str) and saved and rule and saved != rule:
        runner.logger.warning(
            f"the config averages the weights by {rule}, the checkpoint by {few([saved])}: its averages are "
            "continued by the rule of the config"
        )


def record_averages(runner) -> None:
    """Has the checkpoints of a run say by what rule it averages."""
    runner.message_hub.update_info(_RULE, averaging_rule(runner))


def averaging_rule(runner) -> str:
    """The type of the averages and their options; empty where there are none."""
    hook = _hook_of(runner)
    if hook is None:
        return ""
    options = dict(hook.ema_cfg)
    kind = options.pop("type")
    told = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
    return f"{kind if isinstance(kind, str) else kind.__name__}({told})"


def _trained_weights(entry: Any) -> dict[str, Any]:
    prefix = "module."
    entry = entry if isinstance(entry, Mapping) else {}
    return {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}


def _hook_of(runner) -> EMAHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, EMAHook)), None)
