"""Predictions drawn during a training, for TensorBoard and other trackers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from mmengine.visualization import BaseVisBackend, LocalVisBackend, MLflowVisBackend
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import Part, parts

_LONGEST_SIDE = 2048  # of what a tracker gets, in pixels


@HOOKS.register_module()
class DrawPredictionsHook(Hook):
    """Draws the predictions of the first validation images, beside their labels, for the run's trackers.

    They go to each visualization backend but the local one, as ``predictions/1``, ``predictions/2`` …;
    without such a backend, nothing is drawn.

    Args:
        images: how many; 0 draws none.

    Raises:
        UserError: ``images`` is not an integer of at least 0.
    """

    def __init__(self, images: int = 4):
        if type(images) is not int or images < 0:
            raise UserError(f"DrawPredictionsHook.images is {images!r}, expected an integer of at least 0")
        self.images = images
        self._part: Part | None = None
        self._drawn = 0

    def before_val_epoch(self, runner) -> None:
        self._drawn = 0
        if not (self.images and is_main_process() and isinstance(runner._train_loop, BaseLoop)):
            self._drawn = self.images
        elif self._part is None:
            val = list(parts(runner.cfg, ["val_dataloader"]))
            self._part = val[0] if len(val) == 1 else None

    def after_val_iter(
        self, runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        if self._part is None or self._drawn >= self.images:
            return
        backends = _trackers(runner)
        step = runner.epoch if isinstance(runner._train_loop, EpochBasedTrainLoop) else runner.iter
        for sample in (outputs or ()) if backends else ():
            if self._drawn == self.images:
                return
            try:
                drawing = self._part.draw_sample(_as_dict(sample))
            except Exception as error:  # no reason to end a training
                runner.logger.warning(f"predictions cannot be drawn: {error}")
                self.images = 0
                return
            if max(drawing.shape) > _LONGEST_SIDE:
                shrunk = Image.fromarray(drawing)
                shrunk.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
                drawing = np.array(shrunk)
            self._drawn += 1
            for backend in backends:
                name = f"predictions/{self._drawn}"
                if isinstance(backend, MLflowVisBackend):  # a file there, whose name has a suffix
                    name = f"{name}_step{step}.png"
                backend.add_image(name, drawing, step=step)


def _trackers(runner) -> list[BaseVisBackend]:
    """The run's visualization backends that are not files in its folder."""
    backends = runner.visualizer._vis_backends.values()
    return [backend for backend in backends if not isinstance(backend, LocalVisBackend)]


def _as_dict(sample: Any) -> Mapping[str, Any]:
    return sample if isinstance(sample, Mapping) else sample.to_dict()
