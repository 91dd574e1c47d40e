"""``train CONFIG``."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from hardnet_suite.cli._options import add_run_arguments, load_run_config, show
from hardnet_suite.errors import UserError


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
        "--precision",
        choices=["float32", "bf16", "auto"],
        help="what to compute in: bf16 is --bf16, auto the faster one by a few timed steps",
    )
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")


def run(args: argparse.Namespace) -> None:
    if args.bf16 and args.precision == "float32":
        raise UserError("--bf16 and --precision float32 exclude each other")
    cfg = load_run_config(args)
    from mmengine.dist import is_main_process

    from hardnet_suite.openmm.run.train import train

    with stop_on_termination() as stop:
        train(cfg, from_scratch=args.from_scratch, resume=args.resume, stop=stop)
    if is_main_process():
        show(f"checkpoints and logs are in {cfg.work_dir}")


@contextlib.contextmanager
def stop_on_termination() -> Iterator[threading.Event]:
    """Within, SIGTERM, which schedulers and containers send, sets the event instead of ending the process."""
    stop, process = threading.Event(), os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker of the data loader, which is to end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.set()

    if threading.current_thread() is not threading.main_thread():  # where no handler can be set
        yield stop
        return
    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, previous)
