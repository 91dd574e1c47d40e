"""The keys of a config: a misspelt one is an error with the nearest key, not silence."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from hardnet_suite.config_names import base_files
from hardnet_suite.errors import UserError
from hardnet_suite.names import nearest
from hardnet_suite.openmm.data.parts import inner_datasets
from hardnet_suite.openmm.models.config import is_others

# what mmengine's runner reads, then this suite
_RUN_KEYS = frozenset(inspect.signature(Runner.__init__).parameters.keys() - {"self", "cfg"})
OPTION_KEYS = _RUN_KEYS | {
    *("arch", "weights_tag", "bf16", "compile", "global_batch_size"),
    *("find_unused_parameters", "sync_bn"),  # mmengine's, of several ranks
}
# what mmengine reads as well and a training of the suite does not support, with the cure
_UNSUPPORTED = {
    "model_wrapper_cfg": "remove it; find_unused_parameters and sync_bn are entries of their own",
    "activation_checkpointing": "remove it; a smaller batch_size with optim_wrapper.accumulative_counts, or "
    "--bf16, takes less memory too",
    "efficient_conv_bn_eval": "remove it",
}
# what counts while the file is read, and what OpenMMLab's own tools read
FILE_KEYS = OPTION_KEYS | {
    *("custom_imports", "env_variables", "tta_model", "tta_pipeline"),
    *_UNSUPPORTED,  # a model that was trained with them is scored and predicts without
}


def check_options(cfg: Config, options: dict[str, Any]) -> list[str]:
    """Checks dotted keys before they are merged into a config.

    Args:
        cfg: the config, unchanged.
        options: dotted key -> value.

    Returns:
        A warning for each key inside a dict that has no such entry yet (which is legal).

    Raises:
        UserError: a top-level key that nothing reads, a path through a value that has no entries, or a dict
            that would become something else.
    """
    return [line for key, value in options.items() if (line := _check_option(cfg, key, value))]


def require_supported(cfg: Config) -> None:
    """Checks the entries of a training that mmengine reads beside its runner's.

    Args:
        cfg: the config.

    Raises:
        UserError: it has one that the suite does not support, or ``find_unused_parameters`` or ``sync_bn`` is
            none of its values.
    """
    for key, cure in _UNSUPPORTED.items():
        if cfg.get(key):
            raise UserError(f"the config's {key} is not supported: {cure}")
    if not isinstance(value := cfg.get("find_unused_parameters", False), bool):
        raise UserError(f"find_unused_parameters is {value!r}, expected True or False")
    if (value := cfg.get("sync_bn")) not in (None, "torch"):
        raise UserError(f"sync_bn is {value!r}, expected 'torch' or None")


def _check_option(cfg: Config, key: str, value: Any) -> str | None:
    top, *rest = key.split(".")
    if top not in OPTION_KEYS:
        raise UserError(f"--cfg-options {key}: {_why_unread(cfg, top)}")
    if top == "data_preprocessor" and "data_preprocessor" in (cfg.get("model") or {}):
        raise UserError(
            f"--cfg-options {key}: the model has a data preprocessor of its own, so that this has no effect; "
            f"set model.{key}"
        )
    if top == "arch" and is_others(cfg):
        raise UserError(
            f"--cfg-options {key}: the model is a {cfg.model.type}, which takes no arch: set it and what "
            "reads the maps of its backbone in a config with _base_"
        )
    node: Any = cfg.get(top)
    path = top
    for name in rest:
        if (node is None and path != top) or isinstance(node, str | int | float | bool):
            raise UserError(f"--cfg-options {key}: {path} is {node!r}, which has no entry {name!r}")
        if isinstance(node, list | tuple):
            if not name.isdigit() or int(name) >= len(node):
                raise UserError(
                    f"--cfg-options {key}: {path} is a list of {len(node)}, expected an index, got {name!r}"
                )
            node = node[int(name)]
        elif node is None:
            return None  # a top-level key that the config leaves out: the option makes the dict
        elif name not in node:
            path_of = f"{path}.{name}"
            near = nearest(name, node)
            return f"--cfg-options {key}: the config has no {path_of} yet, it is added" + (
                f"; did you mean {path}.{near}?" if near else ""
            )
        else:
            node = node[name]
        path = f"{path}.{name}"
    if isinstance(node, dict) and isinstance(value, str | int | float):
        raise UserError(
            f"--cfg-options {key}={value}: {key} is a dict in the config ({', '.join(list(node)[:4])} …): "
            "set its entries, such as "
            f"{key}.{next(iter(node), 'type')}=…"
        )
    return None


def _why_unread(cfg: Config, key: str) -> str:
    if key == "data_root":
        return "the paths of the config are already made of it; use --data-root"
    if key in cfg:
        return (
            f"{key} only serves to build other entries while the file is read, so that changing it here has "
            "no effect: set those entries, or write a config with _base_"
        )
    near = nearest(key, FILE_KEYS)
    return f"nothing reads {key}" + (f"; did you mean {near}?" if near else f"; known are {_some(FILE_KEYS)}")


def require_known_keys(cfg: Config, path: Path, *, skip: Path) -> None:
    """Checks that each top-level variable of a config file is read: by mmengine, the suite or itself.

    A variable that only a ``_base_`` file reads has no effect either: the base is evaluated first. The bases
    may hold variables that this file does not use, unless they look like misspelt keys.

    Args:
        cfg: the config, as read.
        path: its file; the files that it names in ``_base_`` are checked too.
        skip: folder of configs that are known to be right.

    Raises:
        UserError: a variable that nothing reads.
    """
    for file, read_by_children in _files(path, skip, frozenset()):
        is_base = file != path
        tree = _tree(file)
        if tree is None:
            # JSON or YAML: no variables
            unread = [key for key in cfg if not is_read(cfg, key) and not _is_test_pipeline(cfg, key)]
            reads: set[str] = set()
        else:
            reads, _ = _names_read(tree)
            unread = [
                key
                for key in _assigned(tree)
                if key not in FILE_KEYS | reads | read_by_children
                and not key.startswith("_")
                and not _serves_data_root(cfg, key)
                and not _is_test_pipeline(cfg, key)
                and (not is_base or nearest(key, FILE_KEYS, cutoff=0.8))
            ]
        if unread:
            raise UserError(f"{file}: {_why_unread_in_file(unread[0], cfg)}")


def sets_itself(path: Path, key: str) -> bool:
    """Whether a config file assigns a top-level key itself, rather than one of its bases; JSON and YAML files
    count as if they did."""
    tree = _tree(path)
    return tree is None or key in _assigned(tree)


def is_read(cfg: Config, key: str) -> bool:
    """Whether mmengine or the suite reads a top-level key of a config, beside the file's own code."""
    return key in FILE_KEYS or _serves_data_root(cfg, key)


def without_unread(cfg: Config) -> Config:
    """A config of the top-level keys that are read: without the variables that only served to build them.

    A ``test_pipeline``, which mmseg's ``inference_model`` reads, stays as the one that the run tests with.
    """
    read = {key: value for key, value in cfg.items() if is_read(cfg, key)}
    tested = _test_pipelines(cfg)
    return Config(read | {"test_pipeline": tested[0]} if "test_pipeline" in cfg and tested else read)


def _test_pipelines(cfg: Config) -> list[Any]:
    datasets = inner_datasets((cfg.get("test_dataloader") or {}).get("dataset"))
    return [dataset["pipeline"] for dataset in datasets if dataset.get("pipeline")]


def _is_test_pipeline(cfg: Config, key: str) -> bool:
    """Whether this key repeats what the config tests with, as in the copy that a run leaves."""
    return key == "test_pipeline" and cfg[key] in _test_pipelines(cfg)


def _why_unread_in_file(key: str, cfg: Config) -> str:
    if key == "data_root":
        return (
            "data_root is set, but no path of the file is made of it; pass --data-root, or set the paths too"
        )
    near = nearest(key, FILE_KEYS)
    cure = f"did you mean {near}?" if near else "remove it, or put an underscore before its name"
    return f"nothing reads {key} (a _base_ file is evaluated before it); {cure}"


def _serves_data_root(cfg: Config, key: str) -> bool:
    """``--data-root`` reads this key: it counts as read if a path of the config begins with it."""
    root = cfg.get("data_root")
    return (
        key == "data_root"
        and isinstance(root, str)
        and any(
            text.startswith(root)
            for name, node in cfg.items()
            if name != "data_root"
            for text in _strings(node)
        )
    )


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from _strings(child)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _strings(child)


def _files(path: Path, skip: Path, read_by_children: frozenset[str]) -> Iterator[tuple[Path, frozenset[str]]]:
    """A config and its bases, each with the names that its children read through ``_base_``."""
    if path.resolve().is_relative_to(skip.resolve()):
        return
    yield path, read_by_children
    tree = _tree(path)
    if tree is None:
        return
    _, through_base = _names_read(tree)
    for base in base_files(path):
        if base.is_file():
            yield from _files(base, skip, read_by_children | through_base)


def _tree(path: Path) -> ast.Module | None:
    if path.suffix != ".py":
        return None
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):  # mmengine's {{ templates }}
        return ast.Module([], [])


def _assigned(tree: ast.Module) -> list[str]:
    """The variables that the file's own statements assign."""
    names = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets if isinstance(node, ast.Assign | ast.AnnAssign) else ():
            names += [
                child.id
                for child in ast.walk(target)
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
            ]
    return names


def _names_read(tree: ast.Module) -> tuple[set[str], frozenset[str]]:
    """The variables that a file reads, and those that it reads of its ``_base_``."""
    own, through_base = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            own.add(node.id)
        if isinstance(node, ast.Attribute | ast.Subscript) and _is_base(node.value):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node.slice, "value", None)
            through_base.add(name)
    return own, frozenset(through_base)


def _is_base(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "_base_"


def _some(names: Collection[str]) -> str:
    return ", ".join(sorted(names)[:6]) + " …"
