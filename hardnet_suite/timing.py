"""Times of functions side by side, so that other load on the machine meets all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    passes: int = 1,
    warmup: int = 1,
    synchronize: Callable[[], object] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    on_round: Callable[[int], object] | None = None,
) -> dict[str, list[float]]:
    """Times functions in turn, round after round.

    Every other round goes through them backwards: none always follows the same one.

    Args:
        functions: Name -> function without arguments.
        rounds: How often each has its turn, at least 1.
        passes: Calls per turn, each timed apart, at least 1.
        warmup: Calls of each before the first round, which are not timed.
        synchronize: Waits for what a call left running, see ``synchronizer``; within the time.
        clock: Seconds.
        on_round: Called after each round with its number, from 1.

    Returns:
        Name -> seconds of each call, rounds · passes of them in their order.

    Raises:
        ValueError: ``rounds`` or ``passes`` below 1, or ``warmup`` below 0.
    """
    for name, value, least in (("rounds", rounds, 1), ("passes", passes, 1), ("warmup", warmup, 0)):
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, got {value}")
    wait = synchronize or _nothing
    for function in functions.values():
        for _ in range(warmup):
            function()
    wait()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    turns = list(functions.items())
    for number in range(rounds):
        for name, function in turns if number % 2 == 0 else reversed(turns):
            for _ in range(passes):
                began = clock()
                function()
                wait()
                seconds[name].append(clock() - began)
        if on_round is not None:
            on_round(number + 1)
    return seconds


def synchronizer(device: str | torch.device) -> Callable[[], object] | None:
    """What waits for the calls that a device still computes; None for the CPU, which leaves none.

    Args:
        device: "cpu", "cuda" (PyTorch's current one) or "cuda:N".
    """
    import torch

    device = torch.device(device)
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else None


def median_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the calls of a time by that of the reference in the same round: below 1 is faster.

    Args:
        seconds: Of ``interleaved``.
        reference: Of the same call of ``interleaved``.
    """
    return statistics.median(own / other for own, other in zip(seconds, reference, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of the values does not exceed (nearest rank).

    Args:
        values: At least one.
        share: In (0, 1], such as 0.95.
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def _nothing() -> None:
    pass
