"""Times of a network's deployed forms in eager PyTorch, each transform alone and together.

Every form, and torchvision's peer in the same setting, runs the same input in turn, round after round in one
process, so that other load on the machine meets all alike. A ratio is the median over the rounds of a form's
time by that of the reference: below 1 is faster. The peer has its batch norms folded, too, and channels last;
"peer, packed" calls oneDNN directly, as "pack" does.

    python benchmarks/transforms.py hardnet68 --size 224 --threads 1
    python benchmarks/transforms.py fchardnet70 --size 1024 2048 --rounds 7 --json forms.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # waiting threads leave the cores to others

import torch
from torch import Tensor, nn

from hardnet_suite import create_model
from hardnet_suite.deploy import channels_last, pack, transformed
from hardnet_suite.deploy.tuning import Form
from hardnet_suite.timing import interleaved, median_ratio

PEERS = {"hardnet39ds": "mobilenet_v2", "hardnet68ds": "mobilenet_v2"}
DECODERS = {"centernet": ("merge", "separate"), "fchardnet": ("merge",)}


def forms(name: str, bf16: bool) -> list[Form]:
    """Every transform alone on top of folded batch norms and channels last, then together."""
    extra = next((steps for prefix, steps in DECODERS.items() if name.startswith(prefix)), ())
    alone = [(step,) for step in (*extra, "pad8", "pad16", "pad32", "split")]
    plain = [("channels_last",), ("fuse",), ("fuse", "channels_last")]
    unpacked = [("fuse", *steps, "channels_last") for steps in alone]
    together = list(dict.fromkeys([(), extra, (*extra, "pad8"), (*extra, "pad16"), (*extra, "split")]))
    packed = [("fuse", *steps, "channels_last", "pack") for steps in together]
    chosen = [Form(steps) for steps in ((), *plain, *unpacked, *packed)]
    if bf16:
        for steps in dict.fromkeys([(), extra, (*extra, "split")]):
            base = ("fuse", *steps, "bf16", "channels_last")
            chosen += [Form(base, "bf16"), Form((*base, "pack"), "bf16")]
    return chosen


def peers(name: str, example: Tensor) -> dict[str, nn.Module]:
    """torchvision's network for the same task, batch norms folded, channels last."""
    import torchvision
    from torch.fx.experimental.optimization import fuse

    peer = PEERS.get(name, "resnet50")
    network = channels_last(fuse(getattr(torchvision.models, peer)().eval()))
    return {peer: network, f"{peer}, packed": pack(network, example)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="side, or height and width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process, for a busy machine: 1 thread"
    )
    parser.add_argument("--no-bf16", action="store_true")
    parser.add_argument(
        "--only", nargs="+", help="forms whose name contains one of these, and the references"
    )
    parser.add_argument("--json", help="file to write")
    args = parser.parse_args()
    torch.set_num_threads(1 if args.cpu_time else args.threads or torch.get_num_threads())
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    network = create_model(args.model)
    for layer in network.modules():  # statistics as of a trained network
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    is_descriptor = "descriptor" in args.model
    channels = network.in_chans if is_descriptor else network.trunk.in_chans
    height, width = args.size if len(args.size) == 2 else args.size * 2
    example = torch.rand(args.batch, channels, height, width)
    with torch.no_grad():
        network.train()(torch.rand(4, channels, *(min(side, 512) for side in (height, width))))
    network.eval()

    runs: dict[str, nn.Module] = {}
    for form in forms(args.model, not args.no_bf16):
        name = str(form)
        if not args.only or not form.steps or any(word in name for word in args.only):
            runs[name] = transformed(network, form.steps, example)
    reference = next(iter(runs))
    peer = None
    if args.model.startswith("hardnet") and not is_descriptor:
        others = peers(args.model, example)
        peer = next(iter(others))
        runs |= others

    with torch.inference_mode():
        seconds = interleaved(
            {name: partial(module, example) for name, module in runs.items()},
            rounds=args.rounds,
            clock=time.process_time if args.cpu_time else time.perf_counter,
        )
    size = "×".join(map(str, example.shape))
    kind = "CPU time" if args.cpu_time else "wall-clock time"
    print(f"{args.model}, input {size}, {torch.get_num_threads()} threads, {args.rounds} rounds, {kind}")
    print(f"torch {torch.__version__}, {platform.machine()}, load {os.getloadavg()[0]:.1f}")
    print(f"{'':66}{'ms':>9}{'fastest':>9}{'of plain':>9}{f'of {peer}' if peer else '':>16}")
    rows = []
    for name, times in seconds.items():
        row = {
            "form": name,
            "milliseconds": 1e3 * statistics.median(times),
            "fastest": 1e3 * min(times),
            "of plain": median_ratio(times, seconds[reference]),
        }
        if peer:
            row["of peer"] = median_ratio(times, seconds[peer])
        rows.append(row)
        last = f"{row['of peer']:16.3f}" if peer else ""
        print(f"{name:66}{row['milliseconds']:9.2f}{row['fastest']:9.2f}{row['of plain']:9.3f}{last}")
    if args.json:
        Path(args.json).write_text(json.dumps({"setting": vars(args), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
