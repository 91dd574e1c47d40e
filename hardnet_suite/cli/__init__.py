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
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import hardnet_suite
from hardnet_suite.errors import UserError
from hardnet_suite.failures import explain
from hardnet_suite.names import did_you_mean, known_name

# command -> what it does; each is a module here with add_arguments(parser) and run(args) -> exit status
COMMANDS = {
    "train": "train a model",
    "test": "score a checkpoint",
    "predict": "run a model on images, folders or videos",
    "describe": "describe the patches of HPatches strips",
    "match": "match two images",
    "index": "index images, to search them",
    "search": "find images in an index",
    "eval": "score saved predictions, without a model",
    "check-data": "check the data of a config before training",
    "models": "list the models and their weights",
    "configs": "list the configs, or copy one to start from",
    "serve": "answer images over HTTP",
    "demo": "a local page to try the models",
    "export": "write a model for other runtimes",
    "benchmark": "time models beside each other",
    "identify": "tell what a weights file is",
    "convert-weights": "convert a weights file to another form",
    "convert-dataset": "convert a data set to COCO, VOC, YOLO, LabelMe or CVAT",
    "samples": "write sample images for the weights in the package",
    "make-patches": "cut patches of image sequences or photographs",
    "draw-shapes": "draw the built-in data set",
    "plot": "plot the loss and scores of a run",
    "doctor": "check this installation",
}


_LONGEST = 4000  # characters of an error
_usual_format = warnings.formatwarning


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, as every other error; words to choose from may differ in case and hyphens."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.nargs == argparse.PARSER and arg_strings:  # the words after a command are its own
            word = arg_strings[0]
            arg_strings = [known_name(word, action.choices or ()) or word, *arg_strings[1:]]
        return super()._get_values(action, arg_strings)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        value = super()._get_value(action, arg_string)
        is_word = action.nargs != argparse.PARSER and action.choices is not None and isinstance(value, str)
        return (known_name(value, map(str, action.choices)) or value) if is_word else value

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = did_you_mean(str(value), map(str, action.choices))
            choices = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; {near}choose from {choices}")

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
    argv[:1] = [known_name(word, COMMANDS) or word for word in argv[:1]]
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
    warnings.formatwarning = _format_warning
    for name, value in vars(args).items():
        setattr(args, name, _at_home(value))
    # train saves a checkpoint before it ends
    ending = nullcontext() if args.command == "train" else _exit_on_termination()
    try:
        with ending:
            return args.run(args) or 0
    except KeyboardInterrupt as error:
        return _interrupted(error)
    except Exception as error:
        cause = _ending(error)
        if isinstance(cause, KeyboardInterrupt):
            return _interrupted(cause)
        if cause is not None:
            raise cause from None
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if args.debug:
            raise
        from hardnet_suite.cli._options import is_first_rank, show

        error = _as_user_error(error)
        rank = "" if is_first_rank() else f" on rank {os.environ['RANK']}"
        show(f"error{rank}: {_shortened(one_line(error))}", sys.stderr)
        return 2 if isinstance(error, UserError) or explain(error) else 1


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """A warning as one line, without its place in the code."""
    if not issubclass(category, UserWarning):
        return _usual_format(message, category, *place, **more)
    return f"warning: {message}\n"


@contextmanager
def _exit_on_termination() -> Iterator[None]:
    """Within, SIGTERM ends the process as an exception does: temporary files and folders are removed.

    A library that discards the exception goes on; the process ends with the exit status of SIGTERM after it.

    A handler that the process has already, or a signal that it ignores, stays as it is.
    """
    process, received = os.getpid(), threading.Event()

    def handle(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker of the data loader, which ends at once
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        received.set()
        raise SystemExit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()  # handlers can be set there alone
    if not main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
        if received.is_set():
            raise SystemExit(128 + signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupted(error: KeyboardInterrupt) -> int:
    print(f"interrupted: {error}" if str(error) else "interrupted", file=sys.stderr)
    return 130


def _ending(error: BaseException) -> KeyboardInterrupt | SystemExit | None:
    """What ended the program, where a bare ``except:`` of a library made another error of it; else None."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, KeyboardInterrupt | SystemExit):
            return cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


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
