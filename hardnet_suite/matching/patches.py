"""From patches to descriptors: the network that describes them, and its call in bounded memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardnet_suite.config_names import own_configs
from hardnet_suite.deploy.session import Session, is_for_engine, open_session
from hardnet_suite.errors import UserError
from hardnet_suite.inference import resize_patches
from hardnet_suite.names import did_you_mean, known_name
from hardnet_suite.networks import ARCHS, DescriptorArch, build_network, eval_mode
from hardnet_suite.numeric import require_count
from hardnet_suite.run_folders import find_run
from hardnet_suite.weights import chosen_row, fill, open_weights
from hardnet_suite.weights.file import expanded
from hardnet_suite.weights.runs import run_checkpoint
from hardnet_suite.weights.tables import digest_of_tensors

DESCRIPTOR = "hardnet_descriptor"
SHIPPED = "homography"  # tag of the weights in the package


def load_descriptor(
    model: str | Path = DESCRIPTOR,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
) -> nn.Module:
    """A patch descriptor with weights, in eval mode.

    Args:
        model: a name of ``list_models()``; a file of weights, whose keys tell the network; a file that
            ``export`` wrote, which computes on the CPU; or a run's folder, which stands for its best
            checkpoint.
        weights: for a name, a tag of the weights registry, a file or a run's folder; None: those in the
            package, "homography", of hardnet_descriptor, and the published ones of others. For
            hardnet_descriptor, the default, a file may be of any patch descriptor.
        device: "cpu", "cuda", …; None: a GPU where there is one.

    Raises:
        UserError: no such model, weights or device; a model that does not describe patches; weights that are
            unavailable; an exported file that is damaged, or lacks its engine.
    """
    return open_descriptor(model, weights=weights, device=device)


def open_descriptor(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    bf16: bool = False,
) -> nn.Module:
    """``load_descriptor`` for ``describe``: its ``bf16`` is told to an engine when a file is opened.

    Raises:
        UserError: as ``load_descriptor``, or an engine that does not compute the file in bfloat16.
    """
    names = [name for name, arch in ARCHS.items() if isinstance(arch, DescriptorArch)]
    if (run := find_run(str(model), [*names, *own_configs()])) is not None:
        model = run
    name = None if run is not None else known_name(str(model), names)
    if name is None:
        if weights is not None:
            raise UserError(
                f"{model} is not a patch descriptor; {did_you_mean(str(model), names)}expected one of: "
                f"{', '.join(names)}"
            )
        if not expanded(model).exists():
            raise UserError(
                f"{model} is neither a patch descriptor nor a file of weights; "
                f"{did_you_mean(str(model), names)}expected one of: {', '.join(names)}"
            )
        weights = model
    if weights is None:
        weights = SHIPPED if name == DESCRIPTOR else True
    row = None if name is None else chosen_row(name, weights)
    if row is None and is_for_engine(weights):
        session = open_session(weights, precision="bf16" if bf16 else None)
        _require_descriptor(session.usage.name, name, session.path)
        return ready(session, "cpu" if device is None else device)
    if row is not None:
        checkpoint = open_weights(row, name)
    elif (path := expanded(weights)).is_dir():
        checkpoint = open_weights(run_checkpoint(path)[0])
    else:
        checkpoint = open_weights(path)
    checkpoint = checkpoint.require_whole()
    _require_descriptor(checkpoint.model, name, checkpoint.path)
    network = build_network(checkpoint.model, in_chans=checkpoint.in_chans)
    fill(network, checkpoint)
    network.weights, network.weights_source = _words(checkpoint), checkpoint.source
    return ready(network, device)


def _require_descriptor(model: str, name: str | None, path: Path) -> None:
    """UserError unless ``model``, whose weights these are, is a patch descriptor, and the one named."""
    if isinstance(ARCHS[model], DescriptorArch) and name in (None, DESCRIPTOR, model):
        return
    wanted = name if name not in (None, DESCRIPTOR) else "a patch descriptor"
    raise UserError(f"{path}: these are weights of {model}, not of {wanted}")


def ready(network: nn.Module, device: str | torch.device | None) -> nn.Module:
    """A network in eval mode on a device; None: a GPU where there is one. UserError: no such device."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        return network.eval().to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"cannot compute on the device {device}: {str(error).splitlines()[0]}") from None


def _words(checkpoint: Any) -> str:
    row = checkpoint.row
    if row is None:
        return str(checkpoint.path)
    return f"{os.path.basename(checkpoint.path)}, the weights {row.tag!r} of {row.model}"


def describe(
    model: nn.Module, patches: np.ndarray | Tensor, *, batch_size: int = 1024, bf16: bool = False
) -> np.ndarray:
    """Descriptors of patches of any size, as the descriptor was trained: grey, reduced to its input by area.

    The network is used in eval mode, whatever its mode is, and is left as it was. Memory beside the patches
    and the descriptors is that of one batch.

    Args:
        model: a patch descriptor, such as ``create_model("hardnet_descriptor")`` or ``load_descriptor()``.
        patches: (N, h, h) or (N, 1, h, h); uint8, or floating-point values in 0…1.
        batch_size: patches at once; beyond rounding, the descriptors do not depend on it.
        bf16: computes in bfloat16, faster on GPUs and CPUs with bfloat16 units (AVX-512 BF16, AMX), slower
            on others.

    Returns:
        (N, D) float32, rows of unit length.

    Raises:
        ValueError: not a patch descriptor, patches of another shape or type, or that hold NaN or infinity.
        UserError: descriptors that are not finite: the weights are damaged.
    """
    side = patch_side(model)
    require_count("batch_size", batch_size)
    tensor = patches.detach() if isinstance(patches, Tensor) else _tensor(patches)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise ValueError(f"expected patches of uint8, or of floating-point values in 0…1, got {tensor.dtype}")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    parts = []
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with eval_mode(model), torch.inference_mode(), autocast:
        for start in range(0, max(1, len(tensor)), batch_size):
            batch = tensor[start : start + batch_size].to(device)
            if batch.is_floating_point() and not batch.isfinite().all():
                raise ValueError("patches hold NaN or infinite values")
            with torch.autocast(device.type, enabled=False):
                inputs = resize_patches(batch, side)
            parts.append(model(inputs).float().cpu())
    descriptors = torch.cat(parts).numpy()
    if not np.isfinite(descriptors).all():
        raise UserError("descriptors hold NaN or infinity: the weights are damaged, use others")
    return descriptors


def patch_side(model: Any) -> int:
    """Height and width of a patch descriptor's input; ValueError for another network."""
    arch = getattr(model, "arch", None)
    if not isinstance(model, nn.Module) or not isinstance(arch, DescriptorArch):
        raise ValueError(
            f"expected a patch descriptor, such as create_model({DESCRIPTOR!r}), got a {type(model).__name__}"
        )
    return arch.patch


def _tensor(patches: Any) -> Tensor:
    values = np.asarray(patches)
    if values.dtype.kind not in "uif":
        raise ValueError(f"expected patches of uint8, or of floating-point values in 0…1, got {values.dtype}")
    return torch.from_numpy(np.ascontiguousarray(values))


def digest_of(model: nn.Module) -> str:
    """SHA-256 of a network's weights, in hex: of the tensors, whatever file they come from.

    A file exported in float32 has that of the network it was made of, another one that of itself: its
    descriptors are others. So has one of an earlier version, which does not know its network's.
    """
    if isinstance(model, Session):
        return model.network_digest or model.digest
    return digest_of_tensors(model.state_dict())
