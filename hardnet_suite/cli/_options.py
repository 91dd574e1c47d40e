"""Options that several commands share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hardnet_suite.errors import UserError


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a path, or a name such as ssd512_hardnet68")
    parser.add_argument("--data-root", help="folder of the data; moves every path of the config")
    parser.add_argument("--work-dir", help="folder of checkpoints and logs (default: work_dirs/CONFIG)")
    parser.add_argument("--amp", action="store_true", help="compute in bfloat16 where it is safe")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch"], default="none", help="pytorch under torchrun"
    )
    parser.add_argument("--seed", type=int, help="of all randomness (default: the config's)")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="entries to change")
    # torch.distributed.launch passes this
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def load_run_config(args: argparse.Namespace):
    """The config with all options applied, ready to run."""
    choose_device(args.device)
    from hardnet_suite.openmm.run import configs, running

    cfg = configs.load_config(args.config, configs.parse_options(args.cfg_options))
    if args.data_root:
        configs.set_data_root(cfg, args.data_root)
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
    work_dir = args.work_dir or cfg.get("work_dir") or Path("work_dirs", Path(args.config).stem)
    running.prepare(cfg, work_dir=work_dir, launcher=args.launcher, amp=args.amp)
    return cfg


def choose_device(device: str | None) -> None:
    """Must come before mmengine is imported, which looks for GPUs then."""
    if device is None:
        return
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise UserError(f"--device {device} is unknown; allowed: cpu, cuda, cuda:N")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: {torch.cuda.device_count()} CUDA devices found here")
    torch.cuda.set_device(int(number or 0))
