"""What a machine can do at most: memory bandwidth and matrix rate, measured, and how near a model comes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hardnet_suite.deploy.benchmark import Timing
from hardnet_suite.deploy.runners import PRECISIONS
from hardnet_suite.numeric import require_count
from hardnet_suite.timing import interleaved, synchronizer

_ELEMENTS = {"cpu": 1 << 26, "cuda": 1 << 28}  # float32, per array: far beyond the caches
_SIDES = {"cpu": 2048, "cuda": 8192}  # of square matrices


@dataclass(frozen=True)
class Roofline:
    """The limits of a device, as PyTorch reaches them there.

    Attributes:
        copy: bytes per second of a copy, read and written.
        triad: bytes per second of a = b + s·c, read and written.
        rates: precision -> multiply-adds per second of a product of square matrices.
        device: "cpu", "cuda" or "cuda:N".
    """

    copy: float
    triad: float
    rates: dict[str, float]
    device: str = "cpu"

    @property
    def bandwidth(self) -> float:
        """Bytes per second, the better of the two."""
        return max(self.copy, self.triad)

    def standing(self, timing: Timing) -> Standing | None:
        """Where a timing stands; None on another device, or in a precision whose rate was not measured."""
        rate = self.rates.get(_numbers(timing.setting.precision))
        if rate is None or timing.setting.device != self.device:
            return None
        arithmetic, traffic = timing.macs / rate, timing.bytes_moved / self.bandwidth
        return Standing(
            intensity=timing.macs / timing.bytes_moved,
            rate=timing.macs / timing.median,
            rate_share=arithmetic / timing.median,
            bandwidth_share=traffic / timing.median,
            floor=max(arithmetic, traffic),
        )

    def to_dict(self) -> dict[str, Any]:
        """Values of JSON."""
        return {**asdict(self), "bandwidth": self.bandwidth}


@dataclass(frozen=True)
class Standing:
    """A timing beside the limits of its device.

    Attributes:
        intensity: multiply-adds per byte moved (``Timing.bytes_moved``).
        rate: multiply-adds per second.
        rate_share: of the machine's matrix rate in this precision. Above 1 only for engines that do without
            some multiplications, as Winograd's convolutions do, or that are faster than PyTorch's products.
        bandwidth_share: of the machine's bandwidth, were every map moved once; above 1 where caches
            hold maps.
        floor: seconds per pass that arithmetic or traffic alone would take, whichever is longer.
    """

    intensity: float
    rate: float
    rate_share: float
    bandwidth_share: float
    floor: float


def measure_roofline(
    device: str = "cpu",
    precisions: Sequence[str] = tuple(PRECISIONS),
    *,
    rounds: int = 7,
    elements: int | None = None,
    side: int | None = None,
) -> Roofline:
    """Measures bandwidth and matrix rates, the best of some rounds, with PyTorch's threads as they are set.

    Args:
        device: "cpu", "cuda" or "cuda:N".
        precisions: "fp32", "bf16", "fp16", "int8"; those without a matrix product here are left out.
        rounds: Repetitions.
        elements: Of each array. Default: 2²⁶ numbers (256 MiB), on a GPU 2²⁸.
        side: Of the square matrices. Default: 2048, on a GPU 8192.
    """
    kind = torch.device(device).type
    for name, value in (("elements", elements), ("side", side)):
        if value is not None:
            require_count(name, value)
    wait = synchronizer(device)
    count = _ELEMENTS[kind] if elements is None else elements
    seconds = interleaved(_streams(count, device), rounds=rounds, synchronize=wait)
    least = {name: min(each) for name, each in seconds.items()}
    bandwidths = {"copy": 2 * 4 * count / least["copy"], "triad": 3 * 4 * count / least["triad"]}
    side = _SIDES[kind] if side is None else side
    products: dict[str, Callable[[], object]] = {}
    for precision in dict.fromkeys(map(_numbers, precisions)):
        with suppress(RuntimeError, NotImplementedError):  # no such product on this device
            run = _product(precision, side, device)
            run()
            products[precision] = run
    with _tensor_cores():
        seconds = interleaved(products, rounds=rounds, synchronize=wait)
    rates = {name: side**3 / min(each) for name, each in seconds.items()}
    return Roofline(**bandwidths, rates=rates, device=device)


def _numbers(precision: str) -> str:
    """What most products of a precision are of: "int8" of "int8+bf16"."""
    return precision.partition("+")[0]


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Within, products of float32 matrices on a GPU are rounded as those of convolutions are (TF32)."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _streams(count: int, device: str) -> dict[str, Callable[[], object]]:
    a, b, c = (torch.ones(count, device=device) for _ in range(3))
    return {"copy": lambda: a.copy_(b), "triad": lambda: torch.add(b, c, alpha=3.0, out=a)}


def _product(precision: str, side: int, device: str) -> Callable[[], object]:
    if precision == "int8":
        left, right = (torch.ones(side, side, dtype=torch.int8, device=device) for _ in range(2))
        return lambda: torch._int_mm(left, right)
    dtype = PRECISIONS[precision]
    left, right = (torch.ones(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)
    return lambda: torch.mm(left, right, out=out)
