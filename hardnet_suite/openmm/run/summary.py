"""What a training says of itself before it begins, and where its best weights are at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from hardnet_suite.data.classes import readable
from hardnet_suite.data.report import counted
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import foreign_datasets, parts, walk
from hardnet_suite.openmm.models.initializers import initial_row, pretrained_init
from hardnet_suite.openmm.run.amp import training_precision
from hardnet_suite.openmm.run.logs import announce
from hardnet_suite.weights import Checkpoint, WeightsRow
from hardnet_suite.weights.places import row_of

_NAMES = 6  # classes that a line has room for
_LOADERS = ("train_dataloader", "val_dataloader")


def announce_training(runner: Runner, weights: str) -> None:
    """Logs what is trained on what, in a few lines that a quiet console shows.

    Args:
        runner: before it trains.
        weights: which the training starts from, in words.
    """
    cfg = runner.cfg
    rows = {"weights": weights, "model": _model(runner)}
    rows |= {loader.removesuffix("_dataloader"): line for loader in _LOADERS if (line := _data(cfg, loader))}
    rows |= {"device": _device(cfg), "folder": shown_path(runner.work_dir), "log": _log_file(runner)}
    for name, text in rows.items():
        announce(runner.logger, f"{name}: {text}")


def initial_weights(cfg: Config, opened: Checkpoint | None, *, from_scratch: bool) -> str:
    """Which weights a training starts from, in words.

    Args:
        cfg: of the run, with ``load_from`` and ``resume`` settled.
        opened: the file of ``load_from``, if there is one.
        from_scratch: whether published weights are left out.
    """
    if opened is not None and cfg.resume:
        return f"{opened.path}, resumed{_position(opened.content)}"
    if opened is not None:
        row = row_of(opened.path)
        return str(opened.path) if row is None else _of_registry(row)
    pretrained = [] if from_scratch else list(dict.fromkeys(_pretrained(cfg)))
    seed = (cfg.get("randomness") or {}).get("seed")
    return "; ".join(pretrained) or ("random" if seed is None else f"random (seed {seed})")


def example_image(cfg: Config) -> Path | None:
    """An image file of the data to try the model on, of the training data only if there is no other."""
    for loader in ("test_dataloader", "val_dataloader", "train_dataloader"):
        for part in parts(cfg, [loader]):
            try:
                path = part.example()
            except (UserError, OSError):  # these data need not be there
                continue
            if path is not None and path.is_file():
                return path
    return None


@dataclass(frozen=True)
class Best:
    """The weights that a finished training leaves.

    Attributes:
        path: the checkpoint: the best by validation, or else the newest.
        key: the name of the score that it is the best by; None without validation.
        score: its value.
    """

    path: Path
    key: str | None = None
    score: float | None = None


def best_of(runner: Runner) -> Best | None:
    """The best checkpoint of a run, the newest where nothing was validated, None where nothing was saved."""
    info = runner.message_hub.runtime_info
    hook = next((hook for hook in runner.hooks if hasattr(hook, "best_ckpt_path")), None)
    for key in getattr(hook, "key_indicators", None) or ():
        suffix = f"_{key}" if len(hook.key_indicators) > 1 else ""
        path, score = info.get(f"best_ckpt{suffix}"), info.get(f"best_score{suffix}")
        if isinstance(path, str) and Path(path).is_file():
            return Best(Path(path), key, score if isinstance(score, int | float) else None)
    return Best(runner.last_saved) if runner.last_saved else None


def _position(content: Mapping[str, Any]) -> str:
    meta = content.get("meta")
    epoch, iteration = (meta.get(key) if isinstance(meta, Mapping) else None for key in ("epoch", "iter"))
    whole = type(epoch) is int and type(iteration) is int
    return f" after epoch {epoch}, iteration {iteration}" if whole else ""


def pretrained_parts(cfg: Config) -> list[tuple[dict, str | None]]:
    """(``init_cfg``, ``arch``) of each part of the model that has one, ``pretrained`` included."""
    found: list[tuple[dict, str | None]] = []

    def collect(node: dict) -> None:
        init, arch = node.get("init_cfg"), node.get("arch") or (node.get("backbone") or {}).get("arch")
        if node.get("pretrained"):
            with suppress(UserError, ValueError):  # told when the model is built
                init = pretrained_init(arch, node["pretrained"])
        if isinstance(init, dict):
            found.append((init, arch))

    walk(cfg.model, collect)
    return found


def _pretrained(cfg: Config) -> Iterator[str]:
    """What the ``init_cfg`` and ``pretrained`` entries of the model load, in words."""
    for init, arch in pretrained_parts(cfg):
        if init.get("type") == "Pretrained":
            yield str(init.get("checkpoint"))
        elif init.get("type") == "HarDNetPretrained":
            if init.get("file"):
                yield str(init["file"])
                continue
            try:
                row = initial_row(init.get("model"), init.get("tag"), arch or cfg.get("arch"))
            except ValueError:  # told when the model is built
                continue
            yield _of_registry(row)


def _of_registry(row: WeightsRow) -> str:
    kind = "shipped" if row.shipped else "published"
    what = "trunk" if row.base_only else "weights"
    metric = f" ({row.metric})" if row.metric else ""
    return f"{kind} {what} {row.tag!r} of {row.model}, {row.file}{metric}"


def _model(runner: Runner) -> str:
    count = sum(parameter.numel() for parameter in runner.model.parameters())
    return f"{runner.cfg.get('arch') or runner._model_name}, {count / 1e6:.2f} M parameters"


def _data(cfg: Config, loader: str) -> str:
    """What the suite's own data sets hold; ``announce_foreign_data`` tells of others once they are built."""
    lines = [_with_classes(part.counts(), part.classes) for part in parts(cfg, [loader])]
    return "; ".join(lines) if lines and not foreign_datasets(cfg, loader) else ""


def announce_foreign_data(runner: Runner) -> None:
    """Logs how many images and classes the data sets have that are not the suite's own.

    Args:
        runner: with its data loaders built.
    """
    for name, loop in (("train", runner._train_loop), ("val", runner._val_loop)):
        dataset = getattr(getattr(loop, "dataloader", None), "dataset", None)
        if dataset is None or not foreign_datasets(runner.cfg, f"{name}_dataloader"):
            continue
        size = counted(len(dataset), "image") if hasattr(dataset, "__len__") else "a stream"
        line = _with_classes(size, classes_of(dataset))
        announce(runner.logger, f"{name}: {line}, {type(dataset).__name__}")


def classes_of(dataset: Any) -> tuple[str, ...]:
    """The classes of a data set of any kind, as its ``metainfo`` names them; empty where it does not."""
    metainfo = getattr(dataset, "metainfo", None) or {}
    classes = metainfo.get("classes") if isinstance(metainfo, Mapping) else None
    listed = isinstance(classes, list | tuple) and all(isinstance(each, str) for each in classes)
    return tuple(classes) if listed else ()


def _with_classes(counts: str, classes: tuple[str, ...]) -> str:
    if not classes:
        return counts
    names = ", ".join(readable(classes[:_NAMES])) + (" …" if len(classes) > _NAMES else "")
    return f"{counts}, {counted(len(classes), 'class')} ({names})"


def _device(cfg: Config) -> str:
    ranks = get_world_size()
    if get_device() == "cuda":
        device = torch.cuda.get_device_name()
    elif get_device() == "cpu":
        device = f"CPU, {counted(torch.get_num_threads(), 'thread')}"
    else:
        device = get_device()
    precision = training_precision(cfg)
    if precision in ("bfloat16", "float16"):
        precision += " where it is safe"
    elif precision != "float32":
        precision = f"the precision of {precision}"
    return f"{f'{ranks} × ' if ranks > 1 else ''}{device}, {precision}"


def _log_file(runner: Runner) -> str:
    return shown_path(Path(runner.log_dir, f"{runner.timestamp}.log"))


def shown_path(path: str | Path) -> str:
    """A path as people read it: relative to the current folder where it lies in it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
