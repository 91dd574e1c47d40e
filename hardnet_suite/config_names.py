"""The config files that come with the suite, by their names."""

from __future__ import annotations

from pathlib import Path

import hardnet_suite
from hardnet_suite.errors import UserError
from hardnet_suite.names import did_you_mean, known_name

_PACKAGE = Path(hardnet_suite.__file__).parent
_INSTALLED = _PACKAGE / "configs"
OWN_CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # else in the source tree


def own_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the suite."""
    return {file.stem: file for file in sorted(OWN_CONFIGS.glob("*.py"))}


def find_config(name: str, *, or_path: bool = True) -> Path:
    """The file of a config of the suite.

    Args:
        name: such as "ssd512_hardnet68"; case, hyphens and underscores may differ.
        or_path: whether a path would do, too, as the message says then.

    Raises:
        UserError: there is none of that name.
    """
    own = own_configs()
    found = known_name(name, own)
    if found is None:
        near = did_you_mean(Path(name).stem, own)
        choice = "give a path, or one of" if or_path else "there are"
        raise UserError(f"no config {name}: {near}{choice} {', '.join(own)}")
    return own[found]
