"""Copies of the suite's configs to start an own one from: flat, with the comments of the original."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path
from typing import Any

from mmengine.config import Config

from hardnet_suite.config_names import own_configs
from hardnet_suite.openmm.config_files import base_files
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.keys import is_read

_MARK = "the list "
_COMMENT = re.compile(r"\s*#")


def summary(path: Path) -> str:
    """The first comment of a config, in one line."""
    lines = _comments_above(path.read_text(encoding="utf-8").splitlines(), None)
    return " ".join(line.lstrip("# ") for line in lines)


def flat_copy(name: str | Path, origin: str | None = None) -> str:
    """A config of the suite as the text of one file without bases, which reads as the same config.

    Of the variables that only the original's own code reads, lists are kept, such as pipelines.

    Args:
        name: of ``own_configs()``, or the path of a config.
        origin: the comment that says where it comes from.
    """
    path = name if isinstance(name, Path) else own_configs()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = load_config(path)
    comments = _comments(path)
    head = _comments_above(path.read_text(encoding="utf-8").splitlines(), None)
    blocks = ["\n".join([*head, origin or f"# A copy of the suite's config {name}, with its bases."])]
    # lists that the original has a name for, such as pipelines, keep it
    lists = {key: value for key, value in cfg.items() if not is_read(cfg, key) and isinstance(value, list)}
    written: set[str] = set()
    for key, value in cfg.items():
        if not is_read(cfg, key):
            continue
        named = _named(value, lists)
        used = [name for name in lists if f"'{_MARK}{name}'" in str(named)]
        for name in used:
            if name not in written:
                blocks.append(_block(name, lists[name], comments))
        written.update(used)
        blocks.append(_block(key, named, comments))
    return "\n\n".join(blocks) + "\n"


def _named(value: Any, lists: dict[str, list]) -> Any:
    """A value in which a mark with its name stands for each of the lists."""
    if isinstance(value, dict):
        return {key: _named(item, lists) for key, item in value.items()}
    if isinstance(value, list):
        name = next((name for name, other in lists.items() if value and value == other), None)
        return [_named(item, lists) for item in value] if name is None else _MARK + name
    return value


def _block(key: str, value: Any, comments: dict[str, list[str]]) -> str:
    text = Config({key: value}).pretty_text.strip()
    return "\n".join([*comments.get(key, ()), re.sub(f"'{_MARK}([^']*)'", r"\1", text)])


def _comments(path: Path) -> dict[str, list[str]]:
    """Variable -> the comment above or beside its assignment, in a config or its bases."""
    source = path.read_text(encoding="utf-8")
    lines, comments = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        key = node.targets[0].id
        if key == "_base_":
            for base in base_files(path):
                comments |= _comments(base)
            continue
        above = _comments_above(lines, node.lineno - 1)
        beside = (
            lines[node.lineno - 1][node.end_col_offset :].strip() if node.lineno == node.end_lineno else ""
        )
        found = [*above, beside] if beside else above
        if found:
            comments[key] = found
    return comments


def _comments_above(lines: list[str], end: int | None) -> list[str]:
    """The lines of comment that end above a line; those at the beginning of a file for None."""
    if end is None:
        count = next((number for number, line in enumerate(lines) if not _COMMENT.match(line)), len(lines))
        return lines[:count]
    start = end
    while start and _COMMENT.match(lines[start - 1]):
        start -= 1
    return lines[start:end]
