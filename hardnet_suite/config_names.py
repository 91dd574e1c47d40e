"""The config files that come with the suite, by their names."""

from __future__ import annotations

import ast
from collections.abc import Iterable
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


def find_base(name: str, config: str | Path) -> Path:
    """The file that a ``_base_`` of a config names.

    Args:
        name: a path relative to the config or, where there is no such file, to the suite's configs, there
            also without its suffix: "ssd512_hardnet68.py", "ssd512_hardnet68", "_base_/runtime.py"; case,
            hyphens and underscores may differ.
        config: the file with the ``_base_``.

    Returns:
        The file beside the config if there is none of either.
    """
    beside = Path(config).parent / name
    own = OWN_CONFIGS / (name if name.endswith(".py") else f"{name}.py")
    if beside.is_file() or own.is_file():
        return beside if beside.is_file() else own
    known = known_name(name.removesuffix(".py"), own_configs())
    return beside if known is None else own_configs()[known]


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


def written_data_root(path: Path) -> str | None:
    """The ``data_root`` that a Python config or its bases state as plain text.

    None where they do not, and where a file that is not one of the suite's sets data loaders: they may have
    other folders.
    """
    try:
        nodes = ast.parse(path.read_text(encoding="utf-8")).body if path.suffix == ".py" else []
        values = {ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)}
        is_own = path.resolve().is_relative_to(OWN_CONFIGS.resolve())
        if not is_own and any(name.endswith("dataloader") for name in values):
            return None
        if "data_root" in values:
            value = ast.literal_eval(values["data_root"])
            return value if isinstance(value, str) else None
        roots = [written_data_root(file) for file in base_files(path)]
    except (OSError, ValueError, SyntaxError, RecursionError):  # told where the config is read
        return None
    return next((root for root in roots if root is not None), None)


def unknown_model(name: str, models: Iterable[str]) -> UserError:
    """The error for a word that is neither a model or config of the suite nor a file.

    Args:
        name: the word.
        models: the names of the models.
    """
    models = list(models)
    near = did_you_mean(name, [*models, *own_configs()])
    listed = near or f"models: {', '.join(models)}"
    return UserError(
        f"{name} is not a model, config (.py), file of weights or run's folder; {listed}".rstrip()
    )


def find_config(name: str, *, or_path: bool = True) -> Path:
    """The file of a config of the suite.

    Args:
        name: such as "ssd512_hardnet68", also with ".py"; case, hyphens and underscores may differ.
        or_path: whether a path would do, too, as the message says then.

    Raises:
        UserError: there is none of that name.
    """
    own = own_configs()
    found = known_name(name.removesuffix(".py"), own)
    if found is None:
        near = did_you_mean(Path(name).stem, own)
        if not near:
            near = f"{'give a path, or one of' if or_path else 'there are'} {', '.join(own)}"
        raise UserError(f"no config {name}: {near}".rstrip())
    return own[found]
