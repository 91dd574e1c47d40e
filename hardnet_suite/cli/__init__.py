"""The command line: arguments in, library calls, tables out."""

from __future__ import annotations

import argparse
import importlib
import os
import select
import sys
from collections.abc import Sequence

from hardnet_suite.errors import UserError

# command -> what it does; each is a module here with add_arguments(parser) and run(args) -> exit status
COMMANDS = {
    "train": "train a model",
    "test": "score a checkpoint",
    "predict": "what a model finds in images, folders or videos",
    "eval": "score saved predictions, without a model",
    "check-data": "look over a config's data before hours are spent",
    "models": "list the models and where their weights are",
    "convert-weights": "turn a file of weights into another form",
    "convert-dataset": "turn a data set into COCO annotations",
    "draw-shapes": "draw the built-in data set",
    "plot": "plot the loss and the scores of a run",
    "doctor": "say what is right and wrong with this installation",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. An error is one line, its traceback only with --debug."""
    parser = argparse.ArgumentParser(prog="hardnet-suite", description="Train, score and look after HarDNet.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv = list(sys.argv[1:] if argv is None else argv)
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if argv[:1] == [name]:
            module = importlib.import_module(f"hardnet_suite.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if args.debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def _nobody_reads() -> bool:
    """Whether whoever read the output has enough, as ``| head``; then the rest of it goes nowhere."""
    try:
        output = sys.stdout.fileno()
        poll = select.poll()  # not on Windows
    except (AttributeError, OSError, ValueError):
        return False
    poll.register(output, select.POLLOUT)
    left = any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    if left:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return left


def one_line(error: Exception) -> str:
    """The error's message as one line, also when a data loader's worker wrapped it in its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    wrapped = lines[0].startswith("Caught ") and "worker process" in lines[0]
    if wrapped:  # the last line is "package.Type: message"
        lines = [lines[-1].split(": ", 1)[-1]]
    if isinstance(error, UserError):
        return " ".join(lines)
    message = f": {lines[0]}" if lines[0] else ""
    return f"{type(error).__name__}{message} (--debug shows where)"
