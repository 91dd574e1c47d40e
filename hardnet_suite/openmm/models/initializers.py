"""Published weights as mmengine's ``init_cfg``, and saved ones into a model."""

from __future__ import annotations

from pathlib import Path

from mmengine.logging import print_log
from mmengine.model.weight_init import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, find_arch, trunk_arch
from hardnet_suite.weights import Checkpoint, LoadReport, fill, find, open_weights, registry
from hardnet_suite.weights.checkpoint import chosen_row
from hardnet_suite.weights.row import WeightsRow


@WEIGHT_INITIALIZERS.register_module()
class HarDNetPretrained:
    """init_cfg=dict(type="HarDNetPretrained", …): published weights into a backbone or a whole model.

    What the model has no place for is dropped; heads that the file lacks, and layers of another number of
    classes, keep their initial values; all are logged. Any other shape that differs is an error, and so is a
    part of the backbone that would stay random.

    Args:
        model: whose weights, a name of ``list_models()``. Default: the backbone's own ``arch``.
        tag: the tag in the weights registry. Default: "published", without ``file``. "base" is a pretrained
            trunk: where there is no such row, the published classifier with the same trunk.
        file: a local file to take in place of a download: an official one, one of this suite, or the
            checkpoint of a run.
    """

    def __init__(self, model: str | None = None, tag: str | None = None, file: str | None = None):
        self.model, self.tag, self.file = model, tag, file

    def __call__(self, module: nn.Module) -> None:
        if self.file is not None and self.tag is None:
            row, name = None, module.arch if self.model is None else self.model
            find_arch(name)  # also with a file: a misspelt model or tag is an error
        else:
            row = initial_row(self.model, self.tag, module.arch)
            name = row.model
        try:
            weights = open_weights(row if self.file is None else self.file, name)
        except UserError as error:
            raise UserError(f"{error} (train can do without it: --from-scratch)") from None
        report = fill(module, weights, allow=("heads", "in_chans", "classes"))
        print_log(f"{weights.path.name} into {type(module).__name__}: {report}", logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"HarDNetPretrained: {weights.path}")


def initial_row(model: str | None, tag: str | None, arch: str) -> WeightsRow:
    """The row of the registry that ``HarDNetPretrained(model, tag)`` loads into a module of that ``arch``.

    Raises:
        ValueError: an unknown model or tag.
    """
    name = arch if model is None else model
    if tag == "base" and not any((row.model, row.tag) == (name, tag) for row in registry.ROWS):
        classifiers = (other for other, row in ARCHS.items() if other != name and row == trunk_arch(name))
        if classifier := next(classifiers, None):
            return find(classifier)
    return find(name, "published" if tag is None else tag)


def pretrained_init(arch: str | None, pretrained: bool | str) -> dict[str, str]:
    """The ``init_cfg`` of a backbone's ``pretrained``.

    Args:
        arch: of the backbone.
        pretrained: True for the published weights, a tag of the registry, or a file.

    Raises:
        ValueError: another type, or there are no published weights.
        UserError: neither a tag nor a file.
    """
    row = chosen_row(arch, pretrained)
    chosen = {"file": str(pretrained)} if row is None else {"tag": row.tag}
    return {"type": "HarDNetPretrained", **chosen}


def load_checkpoint(
    model: nn.Module,
    path: str | Path | Checkpoint,
    arch: str | None = None,
    *,
    other_classes: bool = False,
    classes: int | None = None,
) -> LoadReport:
    """A checkpoint of this suite, or an official file of model ``arch``, into a whole OpenMMLab model.

    Args:
        model: the detector, segmentor or classifier.
        path: the file, or what ``open_weights`` made of it.
        arch: whose weights they are, a name of ``list_models()``.
        other_classes: layers that depend on the number of classes keep their values where theirs differs; in
            models other than the suite's, tensors that differ in their first dimension alone.
        classes: the number of classes of the model's data, if known: with ``other_classes``, tensors of
            models other than the suite's may also differ in other dimensions, by the classes that the file
            has more.

    Raises:
        UserError: the file is missing, corrupt, carries code, or does not fit.
    """
    weights = path if isinstance(path, Checkpoint) else open_weights(path, arch, known=False)
    return fill(model, weights, allow=("classes",) if other_classes else (), classes=classes)
