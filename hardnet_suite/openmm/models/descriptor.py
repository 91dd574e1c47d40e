"""The patch descriptor HardNet as an mmengine model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import Tensor

from hardnet_suite.errors import UserError
from hardnet_suite.losses import global_orthogonal_regularization, hardest_in_batch_loss
from hardnet_suite.networks import build_network
from hardnet_suite.numeric import require_number
from hardnet_suite.openmm.models.forms import LoadsEveryForm
from hardnet_suite.openmm.models.inference import ReplaceableNetwork


@MODELS.register_module()
class PatchDescriptorModel(LoadsEveryForm, ReplaceableNetwork, BaseModel):
    """A patch descriptor, trained with the hardest negative in the batch.

    In mode "predict", ``forward`` returns one dict per pair, with ``distance`` (of the descriptors, 0 to 2),
    ``label`` and ``name``.

    Args:
        arch: A patch descriptor of ``list_models()``.
        anchor_swap: As of ``hardest_in_batch_loss``.
        margin: As of ``hardest_in_batch_loss``; not with ``loss_type="softmax"``, which has none.
        batch_reduce: As of ``hardest_in_batch_loss``.
        loss_type: As of ``hardest_in_batch_loss``.
        orthogonality: Weight of ``global_orthogonal_regularization``, of each anchor and the positive of the
            next pair; 0 omits it.
        init_cfg: mmengine's config of the initialisation.

    Raises:
        UserError: Options that the loss does not take, or a negative or non-finite ``orthogonality``.
    """

    def __init__(
        self,
        arch: str,
        anchor_swap: bool = True,
        margin: float = 1.0,
        batch_reduce: str = "min",
        loss_type: str = "triplet_margin",
        orthogonality: float = 0.0,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg=init_cfg)
        self.arch, self.orthogonality = arch, orthogonality
        self.network = build_network(arch)
        self.loss_options = {
            "anchor_swap": anchor_swap,
            "margin": margin,
            "batch_reduce": batch_reduce,
            "loss_type": loss_type,
        }
        try:  # now, and not in the first iteration
            hardest_in_batch_loss(torch.eye(2), torch.eye(2), **self.loss_options)
        except (TypeError, ValueError) as error:
            raise UserError(f"model: {error}") from None
        if loss_type == "softmax" and margin != 1.0:
            raise UserError(f"model.margin={margin!r} has no effect with loss_type='softmax'; remove it")
        try:
            require_number("model.orthogonality", orthogonality, 0)
        except ValueError as error:
            raise UserError(str(error)) from None

    def forward(
        self,
        inputs: Tensor,
        labels: Tensor | None = None,
        names: Sequence[Any] | None = None,
        mode: str = "tensor",
    ) -> Any:
        """``inputs``: (N, 2, S, S) pairs; (N, 1, S, S) patches in mode "tensor"."""
        if mode == "tensor":
            return self.outputs(inputs)
        # one after the other, as in the original: batch norms normalise anchors and positives apart
        anchors, positives = (self.outputs(inputs[:, number : number + 1]).float() for number in (0, 1))
        if mode == "loss":
            losses = {"loss_triplet": hardest_in_batch_loss(anchors, positives, **self.loss_options)}
            if self.orthogonality:
                others = positives.roll(1, dims=0)
                regularization = global_orthogonal_regularization(anchors, others)
                losses["loss_orthogonality"] = self.orthogonality * regularization
            return losses
        distances = torch.linalg.vector_norm(anchors - positives, dim=1)
        rows = zip(distances.tolist(), labels.tolist(), names, strict=True)
        return [{"distance": distance, "label": label, "name": name} for distance, label, name in rows]

    def own_outputs(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)
