"""Speed of the patch descriptor beside Kornia's HardNet, which has the same layers (pip install kornia).

Each contender describes the same patches in turn, round after round in one process, so that other load on
the machine meets all alike. The ratio is the median over the rounds of the time of Kornia's in float32 by the
contender's: above 1 is faster.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from hardnet_suite import create_model
from hardnet_suite.deploy import fuse_batch_norms


def contenders(device: torch.device) -> dict[str, Callable[[Tensor], Tensor]]:
    from kornia.feature import HardNet

    torch.manual_seed(0)
    theirs = HardNet(pretrained=False)
    for layer in theirs.modules():  # statistics as of a trained network
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        theirs.train()(torch.rand(128, 1, 32, 32))
    ours = create_model("hardnet_descriptor")
    ours.load_state_dict(theirs.state_dict())

    networks = {"kornia": theirs, "ours": ours, "ours, fused": fuse_batch_norms(ours)}
    copies: dict[str, Callable[[Tensor], Tensor]] = {}
    for dtype, suffix in ((torch.float32, ""), (torch.bfloat16, " bf16")):
        for name, network in networks.items():
            one = copy.deepcopy(network).eval().to(device, dtype)
            copies[name + suffix] = lambda patches, one=one, dtype=dtype: one(patches.to(dtype))
    return copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patches", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    device = torch.device(args.device)
    patches = torch.rand(args.patches, 1, 32, 32, device=device)
    functions = contenders(device)
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.inference_mode():
        reference = functions["kornia"](patches)
        differences = {name: (f(patches) - reference).abs().max().item() for name, f in functions.items()}
        for _ in range(args.rounds):
            for name, function in functions.items():
                start = time.perf_counter()
                function(patches)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times[name].append(time.perf_counter() - start)

    where = torch.cuda.get_device_name() if device.type == "cuda" else _cpu()
    print(f"{where}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    print(
        f"torch {torch.__version__}, kornia {version('kornia')}, {args.patches} patches, {args.rounds} rounds"
    )
    print(f"{'':20}{'ms':>10}{'patches/s':>12}{'times kornia':>14}{'difference':>12}")
    for name, each in times.items():
        median = statistics.median(each)
        ratio = statistics.median(a / b for a, b in zip(times["kornia"], each, strict=True))
        row = f"{median * 1e3:10.1f}{args.patches / median:12.0f}{ratio:14.2f}{differences[name]:12.1e}"
        print(f"{name:20}{row}")


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
