"""How a network is used: one record that it carries along."""

from __future__ import annotations

from dataclasses import dataclass

from hardnet_suite.networks.postprocess import Postprocess
from hardnet_suite.networks.preprocess import Preprocess

Palette = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Usage:
    """What belongs to a network beside its weights; ``network.usage`` of every network of ``create_model``.

    Attributes:
        name: the model's name in ``list_models()``.
        preprocess: from an image to the input.
        postprocess: from the output to an answer; None for the patch descriptor.
        classes: names in the order of the labels; None where nothing says them.
        palette: one RGB colour (0 to 255) per class; None for the usual colours.
    """

    name: str
    preprocess: Preprocess
    postprocess: Postprocess | None = None
    classes: tuple[str, ...] | None = None
    palette: Palette | None = None
