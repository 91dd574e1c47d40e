"""Copies of the suite's configs to start an own one from: flat, with the comments of the original."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from hardnet_suite.config_names import own_configs
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.flattening import flatten
from hardnet_suite.openmm.run.keys import is_read

_COMMENT = re.compile(r"\s*#")


def summary(path: Path) -> str:
    """The first comment of a config, in one line."""
    return " ".join(line.lstrip("# ") for line in _head(path))


def flat_copy(name: str | Path, origin: str | None = None) -> str:
    """A config of the suite as the text of one file without bases, which reads as the same config.

    Variables that others are made of, such as ``classes`` and ``data_root``, keep their effect.

    Args:
        name: of ``own_configs()``, or the path of a config.
        origin: the comment that says where it comes from.

    Raises:
        UserError: the config computes a value that cannot be written as an expression, such as an object.
    """
    path = name if isinstance(name, Path) else own_configs()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cfg = load_config(path)
    head = [*_head(path), origin or f"# A copy of the suite's config {name}, with its bases."]
    blocks = flatten(path, cfg._cfg_dict.to_dict(), lambda key: is_read(cfg, key))
    lines = "\n".join(head) + "\n"
    is_line = False
    for block in blocks.values():  # short variables stand together
        was_line, is_line = is_line, "\n" not in block
        lines += f"{block}\n" if was_line and is_line else f"\n{block}\n"
    return lines


def _head(path: Path) -> list[str]:
    """The lines of comment at the beginning of a config."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[
        : next((number for number, line in enumerate(lines) if not _COMMENT.match(line)), len(lines))
    ]
