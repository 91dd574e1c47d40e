"""Which precision a machine computes faster in, by a few timed passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hardnet_suite.networks import PatchDescriptor, Preprocess
from hardnet_suite.timing import interleaved, synchronizer

_SIDE = 512  # of the input of a model that keeps the size of images


@dataclass(frozen=True)
class PrecisionChoice:
    """The faster of two precisions.

    Attributes:
        precision: the chosen one, such as "float32" or "bf16".
        timed: what was timed, such as "a step"; or why nothing was.
        seconds: the fastest pass in each precision; empty where nothing was timed.
    """

    precision: str
    timed: str
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def bf16(self) -> bool:
        """Whether it is bfloat16."""
        return self.precision == "bf16"

    def __str__(self) -> str:
        if not self.seconds:
            return f"{self.precision} ({self.timed})"
        times = ", ".join(f"{_shown(seconds)} in {name}" for name, seconds in self.seconds.items())
        return f"{self.precision} ({self.timed} takes {times})"


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def usual_size(rule: Preprocess) -> tuple[int, int]:
    """(height, width) of an input to time: that of the input rule, 512 × 512 where that keeps images'."""
    return rule.height_width or (_SIDE, _SIDE)


def usual_shape(network: Any, rule: Preprocess) -> tuple[int, int, int]:
    """(channels, height, width) of an input to time: of a patch, or of the usual size of the input rule."""
    if isinstance(network, PatchDescriptor):
        return network.in_chans, network.patch, network.patch
    return (network.trunk.in_chans, *usual_size(rule))


def in_both_precisions(
    run: Callable[[], object], device: str | torch.device
) -> dict[str, Callable[[], object]]:
    """A function in float32, and under autocast to bfloat16, as ``faster_precision`` takes them.

    Args:
        run: without arguments.
        device: that it computes on.
    """
    kind = torch.device(device).type

    def under_autocast(enabled: bool) -> Callable[[], object]:
        def run_so() -> object:
            with torch.autocast(kind, torch.bfloat16, enabled=enabled):
                return run()

        return run_so

    return {"float32": under_autocast(False), "bf16": under_autocast(True)}


def faster_precision(
    runs: Mapping[str, Callable[[], object]],
    timed: str,
    *,
    device: str | torch.device = "cpu",
    rounds: int = 3,
) -> PrecisionChoice:
    """Times passes in turn and chooses the precision with the fastest one.

    Args:
        runs: precision -> one pass in it.
        timed: what a pass is, for people.
        device: that they compute on.
        rounds: timed passes of each, after one that is not counted.
    """
    seconds = interleaved(runs, rounds=rounds, synchronize=synchronizer(device))
    fastest = {name: min(values) for name, values in seconds.items()}
    return PrecisionChoice(min(fastest, key=fastest.__getitem__), timed, fastest)
