"""The command line: arguments in, library calls, tables out."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hardnet_suite
from hardnet_suite.errors import UserError
from hardnet_suite.failures import explain

# command -> what it does; each is a module here with add_arguments(parser) and run(args) -> exit status
COMMANDS = {
    "train": "train a model",
    "test": "score a checkpoint",
    "predict": "run a model on images, folders or videos",
    "eval": "score saved predictions, without a model",
    "check-data": "check the data of a config before training",
    "models": "list the models and their weights",
    "configs": "list the configs, or copy one to start from",
    "convert-weights": "convert a weights file to another form",
    "convert-dataset": "convert a data set to COCO annotations",
    "samples": "write sample images for the weights in the package",
    "draw-shapes": "draw the built-in data set",
    "plot": "plot the loss and scores of a run",
    "doctor": "check this installation",
}


_LONGEST = 4000  # characters of an error


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        from hardnet_suite.cli._options import printable

        line = _shortened(message.replace("\n", "\\n"))
        self.exit(2, printable(f"error: {line} ({self.prog} --help shows the usage)\n", sys.stderr))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit status. An error is one line on standard error, with its traceback if --debug is given.
    """
    parser = _Parser(prog="hardnet-suite", description="Train, score and deploy HarDNet.")
    parser.add_argument("--version", action="version", version=f"hardnet-suite {hardnet_suite.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    argv = list(sys.argv[1:] if argv is None else argv)
    is_completing = "_ARGCOMPLETE" in os.environ  # the shell asks, as argcomplete has it
    # libgomp's threads wait spinning, by default for long: on a busy machine each step took six times as long
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if argv[:1] == [name] or is_completing:
            module = importlib.import_module(f"hardnet_suite.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    if is_completing:
        import argcomplete

        argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    for name, value in vars(args).items():
        setattr(args, name, _at_home(value))
    # train saves a checkpoint before it ends
    ending = nullcontext() if args.command == "train" else _exit_on_termination()
    try:
        with ending:
            return args.run(args) or 0
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if args.debug:
            raise
        from hardnet_suite.cli._options import show

        error = _as_user_error(error)
        show(f"error: {_shortened(one_line(error))}", sys.stderr)
        return 2 if isinstance(error, UserError) or explain(error) else 1


@contextmanager
def _exit_on_termination() -> Iterator[None]:
    """Within, SIGTERM ends the process as an exception does: temporary files and folders are removed.

    A handler that the process has already, or a signal that it ignores, stays as it is.
    """
    process = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker of the data loader, which ends at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise SystemExit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()  # handlers can be set there alone
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _at_home(value: Any) -> Any:
    """An option with "~" at its start as the home folder: bash leaves the one in --out=~/found alone."""
    if isinstance(value, str | Path) and str(value).startswith("~"):
        return type(value)(os.path.expanduser(value))
    return [_at_home(each) for each in value] if isinstance(value, list) else value


def _shortened(line: str) -> str:
    """A line that a terminal has room for, however long the value is that a message shows."""
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"


def _as_user_error(error: Exception) -> Exception:
    """The error itself, or the ``UserError`` that says the same of a path that no file system can have."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(f"the path {str(error.filename)[:60]!r}… is too long: expected the path of a file")
    return error


def _nobody_reads() -> bool:
    """Whether the reader of the output has closed it, as ``| head`` does; the rest is discarded then."""
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
    explanation = explain(error)
    if explanation:
        return explanation
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    wrapped = lines[0].startswith("Caught ") and "worker process" in lines[0]
    if wrapped:  # the last line is "package.Type: message"
        lines = [lines[-1].split(": ", 1)[-1]]
    if isinstance(error, UserError):
        return " ".join(lines)
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror} (--debug shows where)"
    message = f": {lines[0]}" if lines[0] else ""
    return f"{type(error).__name__}{message} (--debug shows where)"
