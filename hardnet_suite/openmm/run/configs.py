"""Configs: finding and reading them, moving them to other data, and what they say of the classes."""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction

from hardnet_suite.config_names import OWN_CONFIGS, base_files
from hardnet_suite.data.classification import is_shards, split_shards
from hardnet_suite.errors import UserError
from hardnet_suite.networks import Palette
from hardnet_suite.openmm.config_files import read_config
from hardnet_suite.openmm.data.parts import kind_of, parts, walk
from hardnet_suite.openmm.models.config import settle_arch
from hardnet_suite.openmm.run.keys import check_options, require_known_keys, sets_itself
from hardnet_suite.run_folders import config_path, is_written, work_dir_of

# what hardnet_suite.openmm.segmentation registers beyond hardnet_suite.openmm, which does without mmseg
_SEGMENTATION = frozenset(
    {
        "BootstrappedCrossEntropyLoss",
        "DistillationHook",
        "FCHarDNetHead",
        "HarDNetSegmentor",
        "HarDNetSegmentorTTA",
        "SegmentationDataset",
        "StructureLoss",
    }
)
_LONGEST_OPTION = 10_000
# names and numbers of entries, joined by dots; a config is written as Python, with the keys as they are
_KEY = re.compile(r"[A-Za-z_]\w*(\.[\w-]+){0,50}", re.ASCII)


def load_config(
    name: str | Path, options: dict | None = None, *, warn: Callable[[str], None] = warnings.warn
) -> Config:
    """Reads a config; changes nothing else, such as mmengine's default scope.

    The suite's classes for mmsegmentation are registered if the config names one, whatever it imports.

    Args:
        name: a path, the name of one of the suite's own configs ("ssd512_hardnet68"), or a run's folder or
            its name in work_dirs, also where it was moved or copied: the config's ``work_dir`` is that folder
            then.
        options: entries to change, dotted keys.
        warn: called with a line for each option inside a dict that had no such entry.

    Raises:
        UserError: no such file, it cannot be read, or it or an option sets what nothing reads.
    """
    path, folder = config_path(str(name)), work_dir_of(str(name))
    try:
        cfg = read_config(path)
        settle_arch(cfg)
        arch = cfg.get("arch")
    except UserError:
        raise
    except Exception as error:  # a config is a program, and may raise anything
        raise UserError(f"cannot read the config {path}: {type(error).__name__}: {error}") from error
    require_known_keys(cfg, path, skip=OWN_CONFIGS)
    if folder is not None:
        _settle_work_dir(cfg, path, folder)
    _settle_data_preprocessor(cfg, path)
    for line in check_options(cfg, options or {}):
        warn(line)
    try:
        cfg.merge_from_dict(options or {})
        settle_arch(cfg, before=arch)
        _settle_data_preprocessor(cfg, path)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot apply the options to {path}: {type(error).__name__}: {error}") from error
    walk(cfg._cfg_dict, _register)
    return cfg


def _settle_work_dir(cfg: Config, path: Path, folder: Path) -> None:
    """Makes a folder the work dir of the config in it, in place.

    The paths in a config that training wrote, such as those of annotations, follow a folder that was moved or
    copied; absolute ones stay absolute, as others are relative to ``data_root``.
    """
    before = cfg.get("work_dir")
    if not isinstance(before, str) or os.path.abspath(before) != os.path.abspath(folder):
        if is_written(path) and isinstance(before, str) and os.path.normpath(before) != ".":
            for spelling in dict.fromkeys((before, os.path.normpath(before))):
                _move_paths(cfg, spelling, os.path.abspath(folder) if os.path.isabs(spelling) else folder)
        cfg.work_dir = str(folder)


def _register(node: dict) -> None:
    """Registers the suite's classes for mmsegmentation if a part of a config is one of them."""
    if node.get("type") and kind_of(node) in _SEGMENTATION:
        import hardnet_suite.openmm.segmentation  # noqa: F401


def _settle_data_preprocessor(cfg: Config, path: Path) -> None:
    """Moves a top-level data preprocessor into a model that has none, as mmengine's runner does.

    Where the model has one, the top-level one is removed: mmseg's configs make the model's of it, and a
    config that derives from them may change the model's alone.

    Raises:
        UserError: a file sets the top-level one, and its model has other values: it would have no effect.
    """
    if not isinstance(cfg.get("model"), dict) or not cfg.get("data_preprocessor"):
        return
    if "data_preprocessor" in cfg.model and (entry := _entry_without_effect(cfg, path)):
        name = f"data_preprocessor.{entry}"
        raise UserError(
            f"{path}: {name} has no effect, since the model has a data preprocessor of its own; "
            f"set model.{name}"
        )
    cfg.model.setdefault("data_preprocessor", cfg.pop("data_preprocessor"))


def _entry_without_effect(cfg: Config, path: Path) -> str | None:
    """An entry of the top-level data preprocessor that the model of the file which sets it does not have."""
    inner = (cfg.get("model") or {}).get("data_preprocessor") or {}
    outer = {key: value for key, value in cfg.get("data_preprocessor", {}).items() if key != "_scope_"}
    entry = next((key for key, value in outer.items() if key not in inner or inner[key] != value), None)
    if entry is None or sets_itself(path, "data_preprocessor"):
        return entry
    bases = ((read_config(base, import_custom_modules=False), base) for base in base_files(path))
    return next((found for base in bases if (found := _entry_without_effect(*base))), None)


def parse_options(pairs: list[str]) -> dict:
    """KEY=VALUE pairs, values as mmengine reads them.

    Raises:
        UserError: a pair without a value, or a value whose brackets do not match.
    """
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--options", nargs="+", action=DictAction, default={})
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise UserError(f"--cfg-options takes KEY=VALUE, got {bad[0]!r}")
    for pair in pairs:
        if len(pair) > _LONGEST_OPTION:
            raise UserError(
                f"--cfg-options {pair[:60]}…: longer than {_LONGEST_OPTION} characters; use a config"
            )
        key = pair.partition("=")[0]
        if not _KEY.fullmatch(key):
            raise UserError(
                f"--cfg-options {key[:60]!r}: expected a key of letters, digits and dots, such as "
                "train_dataloader.batch_size"
            )
        if re.search(r"dict\(|\{\s*['\"]", pair.partition("=")[2]):
            raise UserError(
                f"--cfg-options {pair}: expected a number, a word or a list of them; a dictionary is set key "
                "by key (model.test_cfg.score_thr=0.1, param_scheduler.0.end=9), or in a config"
            )
    try:
        return parser.parse_args(["--options", *pairs]).options if pairs else {}
    except (argparse.ArgumentError, AssertionError, ValueError, IndexError, RecursionError) as error:
        raise UserError(f"--cfg-options {' '.join(pairs)}: cannot be read: {error}") from None


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Moves every path of the config that lies in its ``data_root`` to ``root``, in place.

    Args:
        cfg: the config.
        root: a folder; of a classifier also the pattern of its training shards, ``train-{000..099}.tar``:
            those of its other splits are beside them.

    Raises:
        UserError: the config has no ``data_root``, or no data that may come in shards.
    """
    if is_shards(str(root)):
        _set_shards(cfg, str(root))
        return
    if not cfg.get("data_root"):
        raise UserError(f"{cfg.filename} has no data_root that --data-root could replace; add one to it")
    _move_paths(cfg, cfg.data_root, root)


def _move_paths(cfg: Config, before: str | Path, after: str | Path) -> None:
    """Moves every path of the config that lies in a folder to another one, in place."""
    old, new = (f"{str(folder).rstrip('/')}/" for folder in (before, after))

    def moved(value):
        if isinstance(value, str) and f"{value}/".startswith(old):
            return new + value[len(old) :]
        if isinstance(value, (list, tuple)):
            return type(value)(map(moved, value))
        return value

    def move(node: dict) -> None:
        for key, value in node.items():
            node[key] = moved(value)

    walk(cfg._cfg_dict, move)


def _set_shards(cfg: Config, pattern: str) -> None:
    """Reads the classifier's splits from shards, in place."""
    datasets = [
        cfg[key].dataset
        for key in ("train_dataloader", "val_dataloader", "test_dataloader")
        if cfg.get(key) is not None
    ]
    for dataset in datasets:
        if kind_of(dataset) != "ClassificationDataset" or not dataset.get("folder"):
            raise UserError(
                f"{cfg.filename}: --data-root {pattern} is for classifiers, whose data sets have a folder"
            )
    folders = [dataset.folder for dataset in datasets]
    for dataset, folder in zip(datasets, folders, strict=True):
        # held-out images are told by their order, so that the same folder is the same pattern
        shards = pattern if folder == folders[0] else split_shards(pattern, folder)
        dataset.update(data_root="", folder=None, shards=shards)


def drop_pretrained(cfg: Config) -> None:
    """Removes what would fetch published weights, for runs that start from random or other ones."""

    def drop(node: dict) -> None:
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("type") in ("HarDNetPretrained", "Pretrained"):
            node["init_cfg"] = None
        if node.get("pretrained"):
            node["pretrained"] = None

    walk(cfg.model, drop)


def class_names(cfg: Config) -> tuple[str, ...] | None:
    """The classes of the config's test data, as far as they are known without looking at the data."""
    return next((part.declared_classes for part in parts(cfg, ["test_dataloader"])), None)


def class_palette(cfg: Config) -> Palette | None:
    """The colours that the config's test data gives the classes; None if it gives none."""
    return next((part.palette for part in parts(cfg, ["test_dataloader"])), None)
