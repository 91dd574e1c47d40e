"""Config files: the suite's own, and the bases of a config."""

from __future__ import annotations

import importlib.util
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmengine.config import Config

from hardnet_suite.config_names import find_base, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, nearest

_LOOKING = threading.Lock()  # for the bases of a config


def read_config(path: str | Path, **options) -> Config:
    """mmengine's ``Config.fromfile``, whose bases are those of ``find_base``.

    Args:
        path: of the config.
        options: of ``Config.fromfile``.
    """
    with _own_bases():
        return Config.fromfile(path, **options)


def _near_in_package(name: str, error: Exception) -> str:
    """What may have been meant by a base that an installed package lacks, or what is wrong with it."""
    package, _, path = name.partition("::")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        return f": the package {package} is not installed"
    root = Path(spec.origin).parent / ".mim/configs"
    files = {file.relative_to(root).as_posix() for file in root.rglob("*.py")}
    if path in files:
        return f": {type(error).__name__}: {error}"
    same = sorted(file for file in files if Path(file).name == Path(path).name)
    near = same[0] if same else nearest(path, files, cutoff=0.6)
    return f": {package} has no such config" + (f"; did you mean {package}::{near}?" if near else "")


@contextmanager
def _own_bases() -> Iterator[None]:
    """Within, mmengine looks for bases with ``find_base``; it has no other place for that."""
    with _LOOKING:
        original = Config._get_cfg_path

        def find(name: str, config: str) -> tuple[str, str | None]:
            if "::" not in name:
                base = find_base(name, config)
                if not base.is_file():
                    near = did_you_mean(Path(name).stem, own_configs())
                    cure = near.rstrip() or "`hardnet-suite configs` lists those of the suite"
                    raise UserError(
                        f"cannot read the config {config}: no base {name}, neither beside it nor in the "
                        f"suite; {cure}"
                    )
                return str(base), None
            with warnings.catch_warnings():  # mmengine finds packages by it
                warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
                try:
                    return original(name, config)
                except Exception as error:
                    raise UserError(
                        f"cannot read the config {config}: no base {name}{_near_in_package(name, error)}"
                    ) from error

        Config._get_cfg_path = staticmethod(find)
        try:
            yield
        finally:
            Config._get_cfg_path = staticmethod(original)
