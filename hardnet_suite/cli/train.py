"""``train CONFIG``, or ``train MODEL --data FOLDER``."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hardnet_suite import __version__
from hardnet_suite.cli._options import (
    add_run_arguments,
    choose_device,
    is_first_rank,
    load_run_config,
    require_data_root,
    settle_config,
    show,
)
from hardnet_suite.cli.models import FIGURES
from hardnet_suite.config_names import own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.precision import settled_precision
from hardnet_suite.run_folders import folder_word, run_folder

# entries of a config that a test does not read
_OF_TRAINING = frozenset(
    {
        *("load_from", "resume", "randomness", "auto_scale_lr", "optim_wrapper", "param_scheduler"),
        *("train_cfg", "train_dataloader", "val_cfg", "val_dataloader", "val_evaluator"),
        *("default_hooks", "custom_hooks", "log_processor"),
    }
)
_WITHOUT_CONFIG = ("epochs", "image_size", "batch_size")
# where a run can be logged to -> the package of PyPI that does it
_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CHECKPOINT",
        help="resume from the work dir's newest checkpoint (or from the one given)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network with torch.compile: slow first iterations, then sooner on a GPU",
    )
    parser.add_argument(
        "--global-batch-size",
        type=int,
        metavar="N",
        help="images per step on all ranks together, which they share equally: a run then resumes on another "
        "number of ranks",
    )
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")
    parser.add_argument(
        "--log",
        action="append",
        choices=list(_PACKAGES),
        default=[],
        help="log to Weights & Biases or MLflow, or to TensorBoard where the config does not (the "
        "suite's do); may be repeated",
    )
    parser.add_argument("--verbose", action="store_true", help="show on the console what the log file gets")
    group = parser.add_argument_group("without a config", "the name of a model in the place of the config")
    group.add_argument(
        "--data",
        metavar="FOLDER",
        help="COCO, VOC, YOLO, LabelMe or CVAT boxes, images and label images, or folders of classes; a "
        "config for them is written into the work dir (default: work_dirs/MODEL-FOLDER)",
    )
    group.add_argument("--epochs", type=int, help="default: by the number of images")
    group.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="side of the input (default: by the images)"
    )
    group.add_argument("--batch-size", type=int, help="default: by the number of images and the device")


def run(args: argparse.Namespace) -> None:
    args.precision = settled_precision(args.precision, bf16=args.bf16)
    for name in args.log:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise UserError(
                f"--log {name} needs a package that is not installed: pip install {_PACKAGES[name]}"
            )
    if args.global_batch_size is not None and args.global_batch_size < 1:
        raise UserError(f"--global-batch-size {args.global_batch_size}: expected a number from 1")
    if args.global_batch_size is not None and args.batch_size is not None:
        raise UserError("--batch-size is of one rank, --global-batch-size of all of them: give one of both")
    given = [name for name in _WITHOUT_CONFIG if getattr(args, name) is not None]
    if args.data is None and given:
        raise UserError(
            f"--{given[0].replace('_', '-')} goes with --data FOLDER; with a config, use --cfg-options, such "
            "as train_cfg.max_epochs=9 or train_dataloader.batch_size=4"
        )
    if args.data is None:
        _require_config(args)
    else:
        _require_choices(args)
    if is_first_rank():  # before anything that takes seconds
        show(f"hardnet-suite {__version__}: train {args.config} (loading PyTorch and OpenMMLab …)")
        sys.stdout.flush()
    begun: threading.Event = threading.Event()
    with contextlib.nullcontext() if args.data is None else _written_config(args, begun):
        _train(args, begun)


def _train(args: argparse.Namespace, begun: threading.Event) -> None:
    cfg = load_run_config(args)
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.logs import quiet_console
    from hardnet_suite.openmm.run.trackers import add_trackers
    from hardnet_suite.openmm.run.train import train

    if args.compile and not cfg.get("compile"):
        cfg.compile = True
    if args.log:
        add_trackers(cfg, args.log)
    with stop_on_termination() as stop, quiet_console(args.verbose):
        runner = train(cfg, from_scratch=args.from_scratch, resume=args.resume, stop=stop, begun=begun)
    if is_main_process():
        _report(args, runner)


def _report(args: argparse.Namespace, runner) -> None:
    """Says where the best weights and the curves are, and what to type next."""
    from hardnet_suite.openmm.run.records import is_suites
    from hardnet_suite.openmm.run.summary import best_of, example_image, shown_path
    from hardnet_suite.openmm.run.test import is_scored
    from hardnet_suite.visualization.curves import plot_run, score_name, score_text

    cfg, best = runner.cfg, best_of(runner)
    if best is not None and best.key is not None and best.score is not None:
        show(f"best: {score_name(best.key)} {score_text(best.key, best.score)}, {shown_path(best.path)}")
    elif best is not None:
        show(f"newest: {shown_path(best.path)}")
    try:
        show(f"curves: {plot_run(cfg.work_dir)}")
    except (UserError, OSError) as error:
        show(f"warning: no curves are drawn: {error}", sys.stderr)
    if best is None:
        return
    commands = []
    if cfg.get("test_dataloader") and is_scored(cfg):
        commands.append(["test", args.config, *_repeated(args)])
    image = example_image(cfg)
    if image is not None and is_suites(cfg):
        out = Path(cfg.work_dir, "drawings")
        folder = folder_word(cfg.work_dir, [*FIGURES, *own_configs()])
        commands.append(["predict", str(image), "--model", folder, "--out", str(out)])
    if commands:
        show("next:")
    for command in commands:
        show(f"  {shlex.join([*_program(), *command])}")


def _repeated(args: argparse.Namespace) -> list[str]:
    """The options by which ``test`` scores the run that was trained with these."""
    given = {"--data-root": args.data_root, "--work-dir": args.work_dir, "--device": args.device}
    options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    entries = [pair for pair in args.cfg_options if re.split(r"[.=]", pair)[0] not in _OF_TRAINING]
    return [*options, *(["--cfg-options", *entries] if entries else [])]


def _program() -> list[str]:
    """How this program is called: by its name where that is found, as a module of this Python elsewhere."""
    found = shutil.which("hardnet-suite")
    is_this = found is not None and Path(found).parent == Path(sys.executable).parent
    return ["hardnet-suite"] if is_this else [sys.executable, "-m", "hardnet_suite"]


def _require_config(args: argparse.Namespace) -> None:
    """Checks config and data folder; the name of a model in the place of a config is told as such."""
    model = known_name(args.config, FIGURES)
    is_other = os.path.exists(args.config) or run_folder(args.config) is not None
    if model and not is_other and not known_name(args.config, own_configs()):
        raise UserError(
            f"{model} is a model, not a config: add --data FOLDER to train it on a data folder, or give one "
            "of the configs that `hardnet-suite configs` lists"
        )
    settle_config(args)
    require_data_root(args)


def _require_choices(args: argparse.Namespace) -> None:
    """Checks what can be checked of a training without a config before anything heavy is imported."""
    model = known_name(args.config, FIGURES)
    if model is None:
        near = did_you_mean(args.config, FIGURES)
        listed = near or f"models: {', '.join(FIGURES)}"
        raise UserError(f"--data goes with the name of a model, got {args.config}; {listed}".rstrip())
    if not os.path.exists(args.data):
        raise UserError(f"no folder {args.data}: give the folder of the data with --data")
    for name in _WITHOUT_CONFIG:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected a number from 1")
    args.config = model


@contextlib.contextmanager
def _written_config(args: argparse.Namespace, begun: threading.Event) -> Iterator[None]:
    """Writes the config for a model and a data folder, which the run then reads as any other.

    What it replaced of an earlier run is put back at the end, if the training has not begun by then.
    """
    if args.data_root:
        raise UserError("--data and --data-root exclude each other: --data FOLDER is where the data are")
    choose_device(args.device)
    import torch

    from hardnet_suite.openmm.run.from_data import (
        Choices,
        default_work_dir,
        put_back,
        require_model,
        write_config,
    )

    require_model(args.config)
    work_dir = args.work_dir or default_work_dir(args.config, args.data)
    choices = Choices(
        args.epochs,
        args.image_size,
        args.batch_size,
        args.from_scratch,
        args.resume,
        args.global_batch_size,
        _ranks(args),
    )
    replaced: dict[Path, bytes | None] = {}
    args.work_dir = str(work_dir)
    with _exit_on_termination():
        try:
            path = write_config(
                args.config,
                args.data,
                work_dir,
                choices,
                gpu=torch.cuda.is_available(),
                say=show if is_first_rank() else lambda _: None,
                replaced=replaced,
            )
            args.config = str(path)
            yield
        finally:
            if not begun.is_set():  # on every rank: the one that wrote first knows what was there
                put_back(replaced)


def _ranks(args: argparse.Namespace) -> int:
    """How many processes train together, by the variable that torchrun sets; it is checked later."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if args.launcher != "none" and re.fullmatch("[1-9][0-9]{0,5}", size) else 1


@contextlib.contextmanager
def _exit_on_termination() -> Iterator[None]:
    """Within, SIGTERM is an exception, by which what was replaced is put back, rather than the end at once.

    torchrun sends it to the ranks that are still loading where another one was refused.
    """

    def handle(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # it has been heard
        raise SystemExit(128 + number)

    with _on_termination(handle):
        yield


@contextlib.contextmanager
def stop_on_termination() -> Iterator[threading.Event]:
    """Within, SIGTERM, which schedulers and containers send, sets the event instead of ending the process."""
    stop, process = threading.Event(), os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker of the data loader, which is to end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    with _on_termination(handle):
        yield stop


@contextlib.contextmanager
def _on_termination(handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Within, SIGTERM calls a function, where handlers can be set: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
