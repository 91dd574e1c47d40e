"""Folders of runs: which one a word stands for, its config, and the checkpoints in it, by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from hardnet_suite.config_names import find_config, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.names import known_name

BEST = "best_"  # what the names of mmengine's best checkpoints begin with
NUMBERED = re.compile(r"(epoch|iter)_(\d+)\.pth")
# how a config begins that training wrote into the folder of its run
DUMPED = "# The config of a run, as hardnet-suite train wrote it.\n"
CHOSEN = "# Written by hardnet-suite train --data; to change it, copy it. SHA-256 of the rest: "


def saved_checkpoints(work_dir: str | Path, kind: str = "(epoch|iter)") -> list[Path]:
    """The checkpoints that a run can be resumed from: whole epochs, then those within one, each by number.

    The times of the files say nothing: a copy of a folder has others.

    Args:
        work_dir: the folder of the run.
        kind: "epoch" or "iter" for one of them.
    """
    numbers = {path: NUMBERED.fullmatch(path.name) for path in Path(work_dir).glob("*.pth")}
    chosen = [path for path, match in numbers.items() if match and re.fullmatch(kind, match[1])]
    return sorted(chosen, key=lambda path: (numbers[path][1], int(numbers[path][2])))


def is_run(folder: str | Path) -> bool:
    """Whether a folder holds checkpoints of a run."""
    return bool(saved_checkpoints(folder)) or any(Path(folder).glob(f"{BEST}*.pth"))


def is_written(config: Path) -> bool:
    """Whether training wrote a config into the folder of its run, or this is a copy of such a file."""
    if not config.is_file():  # such as a pipe, which would wait for a writer
        return False
    starts = [start.encode() for start in (DUMPED, CHOSEN)]
    try:
        with config.open("rb") as stream:
            return stream.read(max(map(len, starts))).startswith(tuple(starts))
    except OSError:
        return False


def find_run(word: str, names: Iterable[str]) -> Path | None:
    """The run's folder that a word stands for: its path, or its name in work_dirs; None for other words.

    Args:
        word: the word.
        names: what else a word may stand for. Such a name comes first, in its exact spelling alone, as does
            a file.
    """
    if word in names or os.path.isfile(word):
        return None
    return next((folder for folder in _places(word) if _is_begun(folder)), None)


def run_folder(word: str) -> Path | None:
    """The folder that a word stands for in place of a config; None for a file and for the name of a config.

    An exactly spelt name of a config comes first, then a run's folder, then a name of a config in another
    spelling, then any folder with one config.
    """
    configs, name = own_configs(), word.removesuffix(".py")
    if os.path.isfile(word) or name in configs:
        return None
    folder = find_run(word, configs)
    if folder is None and known_name(name, configs) is None:
        folder = next((place for place in _places(word) if _config_in(place)), None)
    return folder


def folder_word(folder: str | Path, names: Iterable[str]) -> str:
    """The path of a folder, as a word that stands for none of the names."""
    word = str(folder)
    return os.path.join(".", word) if known_name(word, names) else word


def config_path(word: str) -> Path:
    """The file of the config that a word stands for: a path, a name, or a run's folder or name.

    Raises:
        UserError: there is none, or a run's folder has several.
    """
    folder = run_folder(word)
    if folder is None:
        return Path(word) if os.path.isfile(word) else find_config(word)
    config = _config_in(folder)
    if config is None:
        others = sorted(path.name for path in folder.glob("*.py"))
        told = f"has the configs {', '.join(others)}: give the path of one" if others else "has no config"
        raise UserError(f"the folder of a run {folder} {told}")
    return config


def work_dir_of(word: str) -> Path | None:
    """The folder of the run whose config a word stands for; None where it is not that of a run.

    A file that training wrote is that of the run beside it, too.
    """
    folder, path = run_folder(word), Path(word)
    if folder is not None:
        return folder if _is_begun(folder) else None
    return path.parent if os.path.isfile(word) and is_written(path) and is_run(path.parent) else None


def _places(word: str) -> list[Path]:
    """The folders that a word may stand for: its path, and that name in work_dirs."""
    if not word:
        return []
    places = [Path(word), *([] if word.startswith(".") else [Path("work_dirs", word)])]
    return [place for place in places if os.path.isdir(place)]


def _is_begun(folder: Path) -> bool:
    """Whether a training has written its config or a checkpoint into a folder."""
    return is_run(folder) or any(map(is_written, folder.glob("*.py")))


def _config_in(folder: Path) -> Path | None:
    """The config of a folder: the one of its name, or else the only one."""
    configs = sorted(folder.glob("*.py"))
    own = [path for path in configs if path.stem == folder.resolve().name]
    return (own or configs)[0] if own or len(configs) == 1 else None
