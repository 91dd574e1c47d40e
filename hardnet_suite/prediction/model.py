"""From a name, a config or a checkpoint to a network that is ready, with its input rule and class names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardnet_suite.data.classification import imagenet_classes, readable
from hardnet_suite.data.coco import COCO_CLASSES
from hardnet_suite.data.segmentation import LABEL_SETS
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    PREPROCESS,
    SSD,
    CenterNet,
    DescriptorArch,
    FCHarDNet,
    Preprocess,
    build_network,
    find_arch,
    list_models,
)
from hardnet_suite.visualization.detection import class_color
from hardnet_suite.weights import (
    ROWS,
    WeightsRow,
    chosen_row,
    fetch,
    identify,
    load_weights,
    metadata_of,
    read_checkpoint,
    state_dict_of,
)

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class LoadedModel:
    """A network in eval mode with what it needs: ``task`` is "classification", "detection" or
    "segmentation", ``rule`` how its input is made, ``classes`` the names of its classes."""

    name: str
    network: nn.Module
    task: str
    rule: Preprocess
    classes: tuple[str, ...]
    palette: Palette
    device: torch.device
    bf16: bool = False


def load_model(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    classes: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
) -> LoadedModel:
    """A model ready to predict.

    Args:
        model: a name of ``list_models()``; a config, PATH.py or the name of one of the suite's; or a file of
            weights, which tells by its keys whose they are. The checkpoint of a run knows its classes and the
            size of its input, other files have the usual ones. Of a run's folder (DIR/RUN) the newest
            checkpoint is taken.
        weights: for a name or a config, a tag of the weights registry or a file; None takes the published
            ones, or for a config those of its ``weights_tag``.
        classes: names of the classes, where the weights do not bring them along.
        device: "cpu", "cuda", …; None: a GPU where there is one.
        bf16: compute in bfloat16.

    On the CPU denormal numbers are taken as zeros from then on, in the whole process (faster tenfold for
    untrained networks).

    Raises:
        UserError: no such model or weights, weights that are not to be had, another number of classes, or
            no such device.
    """
    if not isinstance(model, str | Path):
        raise UserError(f"a {type(model).__name__} is no model to predict with: give a name, config or file")
    chosen = _choose(str(model))
    if chosen.file is not None and weights is not None:
        raise UserError(f"{model} is a file of weights already: leave out {weights}")
    path, row = (chosen.file, None) if chosen.file else _weights_of(chosen.name, weights or chosen.weights)
    checkpoint = read_checkpoint(path)
    try:
        found = identify(state_dict_of(checkpoint), chosen.name)
        _require_a_task(found.model)
        network = build_network(found.model, num_classes=found.num_classes)
        load_weights(network, found.tensors)
        if any(count != found.num_classes for count in chosen.counts):
            raise UserError(
                f"has {found.num_classes} classes, but {model} has num_classes={chosen.counts[0]}"
            )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    row = row or _row_of_file(path)
    meta = metadata_of(path, checkpoint)
    names = _class_names(network, classes or chosen.classes, row, meta)
    try:
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network = network.eval().to(device, memory_format=torch.channels_last)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {str(error).splitlines()[0]}") from None
    if device.type == "cpu":
        torch.set_flush_denormal(True)  # denormal numbers slow untrained networks tenfold
    try:
        known = Preprocess.from_dict(meta["input"]) if "input" in meta else PREPROCESS[found.model]
    except ValueError as error:
        raise UserError(f"{path}: in its metadata, {error}") from None
    palette = _palette(network, names)
    rule = chosen.rule or known
    return LoadedModel(found.model, network, _task(network), rule, names, palette, device, bf16)


@dataclass(frozen=True)
class _Choice:
    """What a user's word for a model stands for: a ``file`` of weights, or the ``name`` of a model with what
    a config says of it: its ``weights``, a tag or a file, input ``rule``, ``classes`` and their number."""

    name: str | None = None
    file: Path | None = None
    weights: str | None = None
    rule: Preprocess | None = None
    classes: tuple[str, ...] | None = None
    counts: tuple[int, ...] = ()


def _choose(model: str) -> _Choice:
    if model in list_models():
        return _Choice(name=model)
    if os.sep in model and Path(model).is_dir():
        return _Choice(file=_newest(model))
    if Path(model).is_file() and not model.endswith(".py"):
        return _Choice(file=Path(model))
    return _of_config(model)


def _weights_of(name: str, weights: str | Path | None) -> tuple[Path, WeightsRow | None]:
    """The file of a model's weights, the published for None, and its row, where the registry has it."""
    _require_a_task(name)
    tags = sorted(row.tag for row in ROWS if row.model == name)
    if weights is None and "published" not in tags:
        have = f"there are {', '.join(tags)}; or" if tags else "there are none;"
        raise UserError(f"{name} has no published weights: {have} give a file as its weights")
    row = chosen_row(name, weights or True)
    return (Path(weights), None) if row is None else (fetch(row), row)


def _newest(folder: str) -> Path:
    from hardnet_suite.openmm.run.hooks import saved_checkpoints

    saved = saved_checkpoints(folder)
    if not saved:
        raise UserError(f"no checkpoint epoch_N.pth or iter_N.pth in {folder}; train first")
    return saved[-1]


def _require_a_task(name: str) -> None:
    if isinstance(find_arch(name), DescriptorArch):
        raise UserError(f"{name} predicts nothing, it describes patches: create_model({name!r})(patches)")


def _task(network: nn.Module) -> str:
    if isinstance(network, SSD | CenterNet):
        return "detection"
    return "segmentation" if isinstance(network, FCHarDNet) else "classification"


def _row_of_file(path: Path) -> WeightsRow | None:
    """The registry's row of weights in the package that a file is a copy of, for its classes."""
    if path.suffix != ".safetensors":
        return None
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return next((row for row in ROWS if row.sha256 == digest), None)


def _class_names(
    network: nn.Module, given: Sequence[str] | None, row: WeightsRow | None, meta: Mapping[str, Any]
) -> tuple[str, ...]:
    count = network.num_classes
    usual = {
        "classification": tuple(imagenet_classes()),
        "detection": COCO_CLASSES,
        "segmentation": LABEL_SETS["cityscapes"].classes,
    }[_task(network)]
    candidates = (
        given,
        row.classes if row else None,
        meta.get("classes"),
        usual if len(usual) == count else None,
    )
    names = next((names for names in candidates if names), None)
    if names is None:
        return tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise UserError(f"{len(names)} class names are given, but the weights have {count} classes")
    return readable(tuple(map(str, names)))


def _palette(network: nn.Module, classes: tuple[str, ...]) -> Palette:
    for labels in LABEL_SETS.values():
        if _task(network) == "segmentation" and labels.classes == classes:
            return labels.palette
    return tuple(class_color(index) for index in range(len(classes)))


def _of_config(path: str) -> _Choice:
    from hardnet_suite.openmm.data.parts import class_counts
    from hardnet_suite.openmm.run import configs

    if path.endswith((".pth", ".pt", ".pkl", ".safetensors")):
        raise UserError(f"{path}: no such file")
    if not path.endswith(".py") and path not in configs.own_configs():
        raise UserError(
            f"{path} is no model, config (.py) or file of weights; the models are {', '.join(list_models())}"
        )
    cfg = configs.load_config(path)
    name = cfg.get("arch")
    if name not in list_models():
        raise UserError(
            f"{path} names no arch of this suite, but {name!r}; allowed: {', '.join(list_models())}"
        )
    return _Choice(
        name=name,
        weights=cfg.get("weights_tag"),
        rule=configs.input_rule(cfg),
        classes=configs.class_names(cfg),
        counts=tuple(class_counts(cfg)),
    )
