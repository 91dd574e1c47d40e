"""Configs: finding them, moving them to other data, and reading off them what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import DATASETS, init_default_scope

import hardnet_suite
from hardnet_suite.data.coco import load_annotations, require_coco
from hardnet_suite.errors import UserError

_PACKAGE = Path(hardnet_suite.__file__).parent
_INSTALLED = _PACKAGE / "configs"
OWN_CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # else in the source tree
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")


def load_config(name: str | Path, options: dict | None = None) -> Config:
    """The config of that path, or of that name among the suite's own ("ssd512_hardnet68").

    options: entries to change, dotted keys. UserError when there is no such file or it cannot be read.
    """
    path = Path(name)
    if not path.is_file():
        own = {file.stem: file for file in sorted(OWN_CONFIGS.glob("*.py"))}
        if str(name) not in own:
            raise UserError(f"no config {name}: give a path, or one of {', '.join(own)}")
        path = own[str(name)]
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:  # a config is a program, and may raise anything
        raise UserError(f"cannot read the config {path}: {type(error).__name__}: {error}") from error
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return cfg


def parse_options(pairs: list[str]) -> dict:
    """KEY=VALUE pairs, values as mmengine reads them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--options", nargs="+", action=DictAction, default={})
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise UserError(f"--cfg-options takes KEY=VALUE, got {bad[0]!r}")
    return parser.parse_args(["--options", *pairs]).options if pairs else {}


def walk(node, change: Callable[[ConfigDict], None]) -> None:
    """Calls ``change`` on every dict inside ``node``."""
    if isinstance(node, dict):
        change(node)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            walk(child, change)


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Moves every path of the config that lies in its ``data_root`` to ``root``; UserError if it has none."""
    if not cfg.get("data_root"):
        raise UserError(f"{cfg.filename} has no data_root that --data-root could replace; add one to it")
    old, new = (f"{str(folder).rstrip('/')}/" for folder in (cfg.data_root, root))

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


def drop_pretrained(cfg: Config) -> None:
    """Takes out what would fetch published weights: training from random ones, or loading others later."""

    def drop(node: dict) -> None:
        init = node.get("init_cfg")
        if isinstance(init, dict) and init.get("type") in ("HarDNetPretrained", "Pretrained"):
            node["init_cfg"] = None

    walk(cfg.model, drop)


@dataclass(frozen=True)
class CocoPart:
    """One COCO data set of a config: which loader it serves, where it lies, its classes."""

    loader: str
    annotation_file: Path
    image_folder: Path
    classes: tuple[str, ...]
    filter_cfg: dict | None = None


def coco_parts(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[CocoPart]:
    """The COCO data sets of these loaders, each once."""
    seen = set()
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get("dataset")
        while dataset is not None and "ann_file" not in dataset and "dataset" in dataset:
            dataset = dataset["dataset"]  # wrappers
        if dataset is None or "ann_file" not in dataset:
            continue
        root = Path(dataset.get("data_root") or "")
        classes = (dataset.get("metainfo") or {}).get("classes") or _own_classes(dataset["type"])
        place = root / dataset["ann_file"], root / dataset["data_prefix"]["img"], tuple(classes)
        if place not in seen:
            seen.add(place)
            yield CocoPart(loader, *place, dataset.get("filter_cfg"))


def _own_classes(dataset_type: str) -> tuple[str, ...]:
    with DATASETS.switch_scope_and_registry(None) as registry:  # the default scope's
        return registry.get(dataset_type).METAINFO["classes"]


def class_counts(cfg: Config) -> set[int]:
    """Every ``num_classes`` inside the config's model."""
    counts = set()
    walk(cfg.model, lambda node: counts.add(node["num_classes"]) if "num_classes" in node else None)
    return counts


def require_data(cfg: Config, loaders: Sequence[str]) -> None:
    """UserError, one line, unless the data of these loaders are there and fit the number of classes."""
    for part in coco_parts(cfg, loaders):
        require_coco(part.annotation_file, part.image_folder)
        for count in class_counts(cfg):
            if count != len(part.classes):
                raise UserError(
                    f"the model has num_classes={count}, but {part.loader} has {len(part.classes)} classes; "
                    "set num_classes and the data set's metainfo.classes to fit each other"
                )
        names = {category["name"] for category in load_annotations(part.annotation_file)["categories"]}
        missing = [name for name in part.classes if name not in names]
        if missing:
            raise UserError(
                f"{part.annotation_file} has {len(names)} classes and lacks "
                f"{', '.join(map(repr, missing[:3]))} of the config's {len(part.classes)}; "
                "set the data set's metainfo.classes and num_classes"
            )
