"""Config files: the suite's own, and the bases of a config."""

from __future__ import annotations

import ast
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from hardnet_suite.config_names import OWN_CONFIGS

_LOOKING = threading.Lock()  # for the bases of a config


def read_config(path: str | Path, **options) -> Config:
    """mmengine's ``Config.fromfile``, whose bases are those of ``find_base``.

    Args:
        path: of the config.
        options: of ``Config.fromfile``.
    """
    with _own_bases():
        return Config.fromfile(path, **options)


def find_base(name: str, config: str | Path) -> Path:
    """The file that a ``_base_`` of a config names.

    Args:
        name: a path relative to the config or, where there is no such file, to the suite's configs, there
            also without its suffix: "ssd512_hardnet68.py", "ssd512_hardnet68", "_base_/runtime.py".
        config: the file with the ``_base_``.

    Returns:
        The file beside the config if there is none of either.
    """
    beside = Path(config).parent / name
    own = OWN_CONFIGS / (name if name.endswith(".py") else f"{name}.py")
    return own if not beside.is_file() and own.is_file() else beside


def base_files(path: Path) -> list[Path]:
    """The files of a Python config's ``_base_`` (those of an installed package, "mmdet::…", left out)."""
    if path.suffix != ".py":
        return []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
            given = ast.literal_eval(node.value)
            names = [given] if isinstance(given, str) else given
            return [find_base(name, path) for name in names if "::" not in name]
    return []


@contextmanager
def _own_bases() -> Iterator[None]:
    """Within, mmengine looks for bases with ``find_base``; it has no other place for that."""
    with _LOOKING:
        original = Config._get_cfg_path

        def find(name: str, config: str) -> tuple[str, str | None]:
            if "::" not in name:
                return str(find_base(name, config)), None
            with warnings.catch_warnings():  # mmengine finds packages by it
                warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
                return original(name, config)

        Config._get_cfg_path = staticmethod(find)
        try:
            yield
        finally:
            Config._get_cfg_path = staticmethod(original)
