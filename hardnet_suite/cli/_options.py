"""Options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import sys
import threading
from pathlib import Path
from typing import TextIO

from hardnet_suite.config_names import find_config
from hardnet_suite.data.report import printable
from hardnet_suite.errors import UserError

_MOST_THREADS = 1024


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder of checkpoints and logs (default: work_dirs/CONFIG)")
    add_bf16_argument(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add_threads_argument(parser)
    parser.add_argument(
        "--launcher", choices=["none", "pytorch"], default="none", help="pytorch under torchrun"
    )
    parser.add_argument("--seed", type=int, help="of all randomness (default: the config's)")
    # torch.distributed.launch passes this
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: one per core)")


def set_threads(threads: int | None) -> None:
    """Limits what PyTorch computes on the CPU to so many threads; None: one per core, as PyTorch has it.

    Call it before PyTorch is imported, for the libraries that read ``OMP_NUM_THREADS``.
    """
    if threads is None:
        return
    if not 1 <= threads <= _MOST_THREADS:
        raise UserError(f"--threads {threads}: expected 1 to {_MOST_THREADS}")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def add_bf16_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bf16", "--amp", action="store_true", help="compute in bfloat16 where it is safe (--amp: the same)"
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and what changes it."""
    parser.add_argument("config", help="a path, or a name such as ssd512_hardnet68")
    parser.add_argument("--data-root", help="folder of the data; moves every path of the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="entries to change")


def settle_config(args: argparse.Namespace) -> None:
    """Checks the config's name and the data folder, before anything is imported that takes seconds.

    Raises:
        UserError: there is none of that name, or no such folder.
    """
    if not os.path.isfile(args.config):
        args.config = find_config(args.config).stem
    if args.data_root and not os.path.isdir(args.data_root):
        raise UserError(f"--data-root {args.data_root}: no such folder")


def read_config(args: argparse.Namespace):
    """The config with ``add_config_arguments``'s options applied; warnings go to standard error."""
    settle_config(args)
    from mmengine.registry import init_default_scope

    from hardnet_suite.openmm.run import configs

    def warn(message: str) -> None:
        if is_first_rank():
            show(f"warning: {message}", sys.stderr)

    cfg = configs.load_config(args.config, configs.parse_options(args.cfg_options), warn=warn)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    if args.data_root:
        configs.set_data_root(cfg, args.data_root)
    return cfg


def is_first_rank() -> bool:
    """Whether this is the process of torchrun's that prints, or one that torchrun did not start."""
    return os.environ.get("RANK", "0") == "0"


def load_run_config(args: argparse.Namespace, suffix: str = ""):
    """The config with all options applied, ready to run; sets what is process-wide.

    Args:
        args: of the command line.
        suffix: of the work dir's name, where neither the command line nor the config gives one.
    """
    settle_config(args)
    choose_device(args.device)
    set_threads(args.threads)
    threading.excepthook = _show_error_of_thread
    from mmengine.device import get_device

    from hardnet_suite.openmm.run.runner import prepare

    cfg = read_config(args)
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
    work_dir = args.work_dir or cfg.get("work_dir") or Path("work_dirs", Path(args.config).stem + suffix)
    if get_device() == "cpu":
        flush_denormals()
        _keep_freed_memory()
    return prepare(
        cfg, work_dir=work_dir, launcher=args.launcher, bf16=args.bf16 or _is_bf16_faster(args, cfg)
    )


def _is_bf16_faster(args: argparse.Namespace, cfg) -> bool:
    """Whether ``--precision`` asks for bfloat16, or for the faster one, and that is it."""
    precision = getattr(args, "precision", None)
    if precision == "auto":
        if args.launcher != "none" or cfg.get("launcher", "none") != "none":
            raise UserError("--precision auto times one process: choose float32 or bf16 under a launcher")
        from hardnet_suite.openmm.run.precision import seconds_of_a_step

        single, half = seconds_of_a_step(cfg)
        precision = "bf16" if half < single else "float32"
        show(f"precision: {precision} (a step takes {single:.2f} s in float32, {half:.2f} s in bfloat16)")
    return precision == "bf16"


def _show_error_of_thread(args) -> None:
    """As Python's, except for TensorBoard's writer: its error is raised again where the next row is added."""
    if type(args.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(args)


def flush_denormals() -> None:
    """Denormal numbers slow untrained networks tenfold on a CPU; process-wide, so for commands only."""
    import torch

    torch.set_flush_denormal(True)


def _keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks. By default it returns each large map to the kernel and asks for it
    again, which costs a fifth of CPU training time in page faults. A no-op except on Linux."""
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


def choose_device(device: str | None) -> None:
    """Call it before mmengine is imported, which looks for GPUs then."""
    if device is None:
        return
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not re.fullmatch("[0-9]{1,4}", number)):
        raise UserError(f"--device {device} is unknown, expected cpu, cuda or cuda:N")
    if kind == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: {torch.cuda.device_count()} CUDA devices found here")
    torch.cuda.set_device(int(number or 0))


def show(text: str, stream: TextIO | None = None) -> None:
    """Prints a text as ``printable`` has it; None: on standard output."""
    stream = stream or sys.stdout
    print(printable(text, stream), file=stream)
