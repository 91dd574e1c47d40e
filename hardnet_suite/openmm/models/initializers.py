"""Published weights as mmengine's ``init_cfg``, and saved ones into a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.models.backbone import HarDNet
from hardnet_suite.weights import (
    LoadReport,
    convert_official,
    fetch,
    find,
    load_weights,
    read_checkpoint,
    state_dict_of,
)
from hardnet_suite.weights.convert import class_layers, in_target, is_own, openmm_target, split_any


@WEIGHT_INITIALIZERS.register_module()
class HarDNetPretrained:
    """init_cfg=dict(type="HarDNetPretrained", …): published weights into a backbone or a whole model.

    model: whose weights, a name of ``list_models()`` (default: the backbone's own ``arch``).
    tag: of the weights registry ("published", "base"). file: a local path to take in place of a download, an
    official file, one of this suite, or the checkpoint of a run.
    What the model has no place for is left, and reported, as are heads that the weights have nothing for. A
    shape that differs is an error, and so is a part of the backbone that would keep its random values.
    """

    def __init__(self, model: str | None = None, tag: str = "published", file: str | None = None):
        self.model, self.tag, self.file = model, tag, file

    def __call__(self, module: nn.Module) -> None:
        name = self.model or module.arch
        try:
            path = fetch(find(name, self.tag), file=self.file)
        except UserError as error:
            raise UserError(f"{error} (train can do without it: --from-scratch)") from None
        converted, left = split_any(name, state_dict_of(read_checkpoint(path)))
        if not isinstance(module, HarDNet):
            converted = in_target(name, converted, openmm_target(name))
        try:
            report = load_weights(module, converted, strict=False)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        trunk = [key for key in report.missing if "trunk." in key]
        if trunk:
            raise UserError(
                f"{path} is not whole: it lacks {len(trunk)} parts of the backbone, such as {trunk[0]}"
            )
        print_log(f"{path.name} into {type(module).__name__}: {report}", logger="current")
        if left:
            print_log(f"{path.name}: no place for {', '.join(left[:5])} … ({len(left)})", logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"HarDNetPretrained: {path}")


def load_checkpoint(
    model: nn.Module, path: str | Path, arch: str | None = None, *, other_classes: bool = False
) -> LoadReport:
    """A checkpoint of this suite, or an official file of model ``arch``, into a whole OpenMMLab model.

    Strict: UserError when the file is missing, corrupt, carries code, or is another model's. With
    ``other_classes``, the layers of model ``arch`` that depend on the number of classes, and tensors that
    differ in their first dimension alone, keep the model's values where their shapes differ, and are named
    in the report.
    """
    checkpoint = read_checkpoint(path)
    try:
        tensors = state_dict_of(checkpoint)
        if arch is not None and is_own(arch, tensors):
            tensors = in_target(arch, tensors, openmm_target(arch))
        elif arch is not None and not tensors.keys() & model.state_dict().keys():
            tensors = convert_official(arch, tensors, target=openmm_target(arch))
        own = model.state_dict()
        of_classes = class_layers(arch, openmm_target(arch)) if other_classes and arch is not None else ()
        fresh = {
            key: own[key]
            for key, value in tensors.items()
            if other_classes
            and key in own
            and own[key].shape != value.shape
            and (key.startswith(of_classes) or _differ_in_first_dimension(own[key], value))
        }
        report = load_weights(model, tensors | fresh)  # all the rest is still checked strictly
        return replace(report, taken=report.taken - len(fresh), missing=(*report.missing, *fresh))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(
            f"{path} is neither a checkpoint of this model nor an official one: {error}"
        ) from None


def _differ_in_first_dimension(a: Tensor, b: Tensor) -> bool:
    return a.ndim == b.ndim > 0 and a.shape[1:] == b.shape[1:]
