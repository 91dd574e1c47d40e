"""Options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from hardnet_suite.config_names import find_config, own_configs, written_data_root
from hardnet_suite.data.report import printable
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.precision import PRECISIONS, settled_precision
from hardnet_suite.run_folders import config_path, folder_word, run_folder
from hardnet_suite.threads import MOST_THREADS


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--work-dir", help="folder of checkpoints and logs (default: work_dirs/CONFIG)")
    add_precision_arguments(parser)
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
    require_threads(threads)
    if threads is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def require_threads(threads: int | None) -> None:
    """UserError for a number of threads that cannot be set."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads {threads}: expected 1 to {MOST_THREADS}")


def add_bf16_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bf16", "--amp", action="store_true", help="compute in bfloat16 where it is safe (--amp: the same)"
    )


def add_precision_arguments(parser: argparse.ArgumentParser) -> None:
    add_bf16_argument(parser)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="what to compute in: bf16 is --bf16, auto the faster one by a few timed passes",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The config and what changes it."""
    parser.add_argument(
        "config",
        help="a path, a name such as ssd512_hardnet68, or a run's folder or name",
    )
    parser.add_argument("--data-root", help="folder of the data; moves every path of the config")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="entries to change")


def settle_config(args: argparse.Namespace) -> None:
    """Checks the config's name and the data folder, before anything is imported that takes seconds.

    ``args.config`` becomes the path of a file or of a run's folder, or the exact name of a config.

    Raises:
        UserError: there is none of that name, or no such folder.
    """
    from hardnet_suite.cli.models import FIGURES

    if (folder := run_folder(args.config)) is not None:
        config_path(args.config)  # it has one
        args.config = folder_word(folder, own_configs())
    elif not os.path.isfile(args.config):
        model, configs = known_name(args.config, FIGURES), own_configs()
        if model and not known_name(args.config, configs):
            own = [name for name in configs if name.startswith(f"{model}_")]
            listed = f": {', '.join(own)}" if own else " that `hardnet-suite configs` lists"
            raise UserError(f"{model} is a model, not a config: give one of the configs{listed}")
        args.config = find_config(args.config).stem
    if args.data_root and not os.path.isdir(args.data_root):
        from hardnet_suite.data.classification import is_shards

        if not is_shards(args.data_root):
            raise UserError(f"--data-root {args.data_root}: no such folder")


def require_data_root(args: argparse.Namespace) -> None:
    """Checks the folder of a config's data, as far as its text tells it, before any heavy import."""
    if args.data_root or args.cfg_options:  # these may set other folders
        return
    root = written_data_root(config_path(args.config))
    if root and "://" not in root and not os.path.exists(root):
        raise UserError(
            f"no folder {root}, the data_root of {args.config}: put the data there, or give their folder "
            "with --data-root"
        )


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


def settle_tag(tag: str, model: str | None = None) -> str:
    """A tag of the weights registry as it is written there, before anything heavy is imported.

    Args:
        tag: in any case, with hyphens or underscores.
        model: whose; None: of any.

    Raises:
        UserError: there is none.
    """
    from hardnet_suite.weights.registry import ROWS

    tags = list(dict.fromkeys(row.tag for row in ROWS if model in (None, row.model)))
    known = known_name(tag, tags)
    if known is None:
        of = "" if model is None else f" of {model}"
        listed = f"tags{of}: {', '.join(tags)}" if tags else f"there are none{of}"
        raise UserError(f"no weights tagged {tag!r}{of}; {did_you_mean(tag, tags)}{listed}")
    return known


def is_first_rank() -> bool:
    """Whether this is the process of torchrun's that prints, or one that torchrun did not start."""
    return os.environ.get("RANK", "0") == "0"


def is_of_several() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def load_run_config(args: argparse.Namespace, suffix: Callable[[Path], str] = lambda usual: ""):
    """The config with all options applied, ready to run; sets what is process-wide.

    Args:
        args: of the command line.
        suffix: from the usual work dir to what its name gets, where the command line gives none.
    """
    args.precision = settled_precision(args.precision, bf16=args.bf16)
    settle_config(args)
    require_data_root(args)
    choose_device(args.device)
    set_threads(args.threads)
    threading.excepthook = _show_error_of_thread
    from mmengine.device import get_device

    from hardnet_suite.openmm.run.runner import prepare

    cfg = read_config(args)
    if _trains(args):
        _require_one_batch_size(args, cfg)
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
    work_dir = args.work_dir
    if not work_dir:
        usual = Path(cfg.get("work_dir") or Path("work_dirs", Path(cfg.filename).stem))
        if usual.name in ("", ".."):
            usual = usual.resolve()
        work_dir = usual.parent / f"{usual.name}{suffix(usual)}"
    if get_device() == "cpu":
        flush_denormals()
        _keep_freed_memory()
    return prepare(
        cfg,
        work_dir=work_dir,
        launcher=args.launcher,
        bf16=_is_bf16_chosen(args, cfg, work_dir),
        trains=_trains(args),
        global_batch_size=getattr(args, "global_batch_size", None),
    )


def _require_one_batch_size(args: argparse.Namespace, cfg) -> None:
    """Checks that no option sets the share of a rank beside the global batch size, which sets it, too.

    Raises:
        UserError: one does.
    """
    key = "train_dataloader.batch_size"
    if key not in {pair.partition("=")[0] for pair in args.cfg_options}:
        return
    if args.global_batch_size is not None:
        raise UserError(f"{key} is of one rank, --global-batch-size of all of them: give one of both")
    if cfg.get("global_batch_size") is not None:
        raise UserError(
            f"{key} would have no effect: the config's global_batch_size of {cfg.global_batch_size} sets it; "
            "give --global-batch-size"
        )


def _trains(args: argparse.Namespace) -> bool:
    return hasattr(args, "resume")


def _is_bf16_chosen(args: argparse.Namespace, cfg, work_dir: str | Path) -> bool | None:
    """Whether ``--precision`` asks for bfloat16, or for the faster one, and that is it; None: as the config.

    A run that is resumed keeps the one that it began with.
    """
    if args.precision != "auto":
        return None if args.precision is None else args.precision == "bf16"
    from hardnet_suite.openmm.run.precision import faster_pass, faster_step, precision_of_run

    trains = _trains(args)
    if trains and (kept := precision_of_run(cfg, work_dir, args.resume)):
        if is_first_rank():
            show(f"precision: {kept}, as in the run to resume")
        return kept == "bf16"
    if args.launcher != "none" or cfg.get("launcher", "none") != "none":
        raise UserError("--precision auto times one process: choose float32 or bf16 under a launcher")
    choice = faster_step(cfg) if trains else faster_pass(cfg)
    show(f"precision: {choice}")
    return choice.bf16


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


def is_cpu(device: str | None) -> bool:
    """Whether ``--device`` is the CPU, with a number or without, or is left to the program."""
    return device is None or device.partition(":")[0] == "cpu"


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
