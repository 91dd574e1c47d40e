"""Which precision a machine trains or scores faster in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from torch import Tensor, nn

from hardnet_suite.errors import UserError
from hardnet_suite.inference.precision import (
    PrecisionChoice,
    faster_precision,
    in_both_precisions,
    usual_shape,
)
from hardnet_suite.networks import build_network, list_models
from hardnet_suite.openmm.run.records import preprocess_of, records_of
from hardnet_suite.weights import open_weights
from hardnet_suite.weights.runs import newest_checkpoint

_MOST_IMAGES = 8


_BF16 = "bf16"  # the entry of a checkpoint's meta: whether its run computes in bfloat16, or in what else
_NAMES = {True: "bfloat16", False: "float32"}


def precision_of_run(cfg: Config, work_dir: str | Path, resume: bool | str) -> str | None:
    """The precision of the run to resume: "bf16" or "float32".

    Args:
        cfg: of the run; its own ``resume`` and ``load_from`` count, too.
        work_dir: folder of the run.
        resume: as of ``train``.

    Returns:
        None where nothing is resumed, or the checkpoint does not say.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    if not resume and cfg.get("resume"):
        resume = cfg.get("load_from") or True
    source = Path(resume) if isinstance(resume, str) else newest_checkpoint(work_dir) if resume else None
    if source is None:
        return None
    meta = open_weights(source, cfg.get("arch"), known=False).content.get("meta")
    recorded = precision_in(meta) if isinstance(meta, Mapping) else None
    return {"bfloat16": "bf16", "float32": "float32"}.get(recorded or "")


def recorded_precision(name: str) -> dict[str, bool | str]:
    """The entry of a checkpoint's meta for what ``amp.training_precision`` returns."""
    return {_BF16: next((flag for flag, known in _NAMES.items() if known == name), name)}


def precision_in(meta: Mapping[str, Any]) -> str | None:
    """What a run computed in, by a checkpoint's meta; None where it does not say."""
    recorded = meta.get(_BF16)
    return recorded if recorded is None or isinstance(recorded, str) else _NAMES[bool(recorded)]


def faster_step(cfg: Config, steps: int = 3) -> PrecisionChoice:
    """Times forward and backward passes of the config's network on random images, on the run's device.

    Args:
        cfg: of one of the suite's models; its input size is taken, and its batch size, up to 8.
        steps: timed passes of each kind, one after the other in turn, after one that is not counted.

    Raises:
        UserError: the config's network is not one of the suite's.
    """
    network, images = _network_and_images(cfg, "train_dataloader")
    network.train()

    def step() -> None:
        sum(value.float().mean() for value in _tensors(network(images))).backward()

    return _faster(step, "a step", images, steps)


def faster_pass(cfg: Config, passes: int = 3) -> PrecisionChoice:
    """Times forward passes, as ``faster_step`` times steps."""
    network, images = _network_and_images(cfg, "test_dataloader")
    network.eval()

    @torch.inference_mode()
    def forward() -> None:
        network(images)

    return _faster(forward, "a pass", images, passes)


def _faster(run: Callable[[], None], timed: str, images: Tensor, rounds: int) -> PrecisionChoice:
    device, size = images.device, "×".join(map(str, images.shape))
    return faster_precision(
        in_both_precisions(run, device), f"{timed} of {size}", device=device, rounds=rounds
    )


def _network_and_images(cfg: Config, loader: str) -> tuple[nn.Module, Tensor]:
    name = cfg.get("arch")
    if name not in list_models():
        raise UserError(
            "--precision auto times the networks of the suite, and this config has none: choose float32 "
            "or bf16"
        )
    device = get_device()
    network = build_network(name).to(device, memory_format=torch.channels_last)
    rule = preprocess_of(cfg) if "preprocess" in records_of(cfg) else network.usage.preprocess
    batch = min((cfg.get(loader) or {}).get("batch_size", 1), _MOST_IMAGES)
    images = torch.rand(batch, *usual_shape(network, rule), device=device)
    return network, images.contiguous(memory_format=torch.channels_last)


def _tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)
