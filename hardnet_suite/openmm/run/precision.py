"""Which precision a machine trains faster in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.device import get_device

from hardnet_suite.errors import UserError
from hardnet_suite.networks import build_network, list_models
from hardnet_suite.openmm.run.records import preprocess_of, records_of

_MOST_IMAGES = 8


def seconds_of_a_step(cfg: Config, steps: int = 3) -> tuple[float, float]:
    """Times forward and backward passes of the config's network on random images, on the run's device.

    Args:
        cfg: of one of the suite's models; its input size is taken, and its batch size, up to 8.
        steps: timed passes of each kind, one after the other in turn, after one that is not counted.

    Returns:
        The fastest step in float32 and in bfloat16, in seconds.

    Raises:
        UserError: the config's network is not one of the suite's.
    """
    name = cfg.get("arch")
    if name not in list_models():
        raise UserError(
            "--precision auto times the networks of the suite, and this config has none: choose float32 "
            "or bf16"
        )
    device = get_device()
    network = build_network(name).to(device, memory_format=torch.channels_last).train()
    preprocess = preprocess_of(cfg) if "preprocess" in records_of(cfg) else network.usage.preprocess
    height, width = preprocess.height_width or (512, 512)
    batch = min(cfg.train_dataloader.get("batch_size", 1), _MOST_IMAGES)
    images = torch.rand(batch, network.trunk.in_chans, height, width, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    fastest = {False: float("inf"), True: float("inf")}
    for step in range(steps + 1):
        for bf16 in fastest:
            began = time.perf_counter()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
                output = network(images)
            sum(value.float().mean() for value in _tensors(output)).backward()
            if device == "cuda":
                torch.cuda.synchronize()
            if step:
                fastest[bf16] = min(fastest[bf16], time.perf_counter() - began)
    return fastest[False], fastest[True]


def _tensors(output: object) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    else:
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)
