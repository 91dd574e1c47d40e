"""Configs: finding them, moving them to other data, and reading off them what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

import hardnet_suite
from hardnet_suite.data.classification import (
    imagenet_classes,
)
from hardnet_suite.errors import UserError
from hardnet_suite.networks import Palette
from hardnet_suite.openmm.data.parts import parts, walk
from hardnet_suite.openmm.models.config import settle_arch

_PACKAGE = Path(hardnet_suite.__file__).parent
_INSTALLED = _PACKAGE / "configs"
OWN_CONFIGS = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"  # else in the source tree
_LARGEST_SCALE = 16


def load_config(name: str | Path, options: dict | None = None) -> Config:
    """The config of that path, or of that name among the suite's own ("ssd512_hardnet68").

    options: entries to change, dotted keys. UserError when there is no such file or it cannot be read.
    """
    path = Path(name)
    if not path.is_file():
        own = own_configs()
        if str(name) not in own:
            raise UserError(f"no config {name}: give a path, or one of {', '.join(own)}")
        path = own[str(name)]
    try:
        cfg = Config.fromfile(path)
        settle_arch(cfg)
        arch = cfg.get("arch")
        cfg.merge_from_dict(options or {})
        settle_arch(cfg, before=arch)
    except UserError:
        raise
    except Exception as error:  # a config is a program, and may raise anything
        raise UserError(f"cannot read the config {path}: {type(error).__name__}: {error}") from error
    init_default_scope(cfg.get("default_scope", "mmengine"))
    return cfg


def own_configs() -> dict[str, Path]:
    """Name -> file of the configs that the suite brings along."""
    return {file.stem: file for file in sorted(OWN_CONFIGS.glob("*.py"))}


def parse_options(pairs: list[str]) -> dict:
    """KEY=VALUE pairs, values as mmengine reads them."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--options", nargs="+", action=DictAction, default={})
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise UserError(f"--cfg-options takes KEY=VALUE, got {bad[0]!r}")
    return parser.parse_args(["--options", *pairs]).options if pairs else {}


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


def class_names(cfg: Config) -> tuple[str, ...] | None:
    """The classes of the config's test data, as far as they are known without looking at the data."""
    for part in parts(cfg, ["test_dataloader"]):
        if part.task != "classification":
            return part.classes
        classes = part.options.get("classes")
        return tuple(imagenet_classes()) if classes == "imagenet" else tuple(classes or ()) or None
    return None


def class_palette(cfg: Config) -> Palette | None:
    """The colours that the config's test data gives the classes; None where it gives none."""
    for part in parts(cfg, ["test_dataloader"]):
        return part.palette
    return None


def add_test_time_augmentation(cfg: Config, *, scales: Sequence[float] = (1.0,), flip: bool = False) -> None:
    """Scores the mean of several looks at each image: its mirror image too, and, for segmentation, its
    probabilities at several scales. UserError for a model that has no such thing."""
    if tuple(scales) == (1.0,) and not flip:
        return
    if not scales or not all(0 < scale <= _LARGEST_SCALE for scale in scales):
        given = " ".join(map(str, scales))
        raise UserError(f"--scales {given}: wanted are numbers above 0, to {_LARGEST_SCALE}")
    steps = ((cfg.test_dataloader or {}).get("dataset") or {}).get("pipeline") or []
    cut = next((i for i, step in enumerate(steps) if step["type"] == "LoadLabels"), None)
    if cut is None:  # a detector
        options = cfg.model.get("test_cfg") or {}
        if tuple(scales) != (1.0,) or "flip_test" not in options:
            raise UserError("--scales is for segmentation, and --flip for that and for CenterNet")
        options.flip_test = True
        return
    resized = [{"type": "mmseg.Resize", "scale_factor": float(scale), "keep_ratio": True} for scale in scales]
    flipped = [{"type": "RandomFlip", "prob": float(on)} for on in ([0, 1] if flip else [0])]
    branches = [resized, flipped, *([step] for step in steps[cut:])]
    cfg.test_dataloader.dataset.pipeline = [*steps[:cut], {"type": "TestTimeAug", "transforms": branches}]
    cfg.model = {"type": "mmseg.SegTTAModel", "module": cfg.model}
