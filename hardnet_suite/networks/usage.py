"""How a network is used: one record that it carries along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    def to_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, as stored in exported files."""
        values = plain_records(self.classes, self.palette, self.preprocess, self.postprocess)
        return {"name": self.name} | values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Usage:
        """The inverse of ``to_dict``.

        Raises:
            ValueError: anything else.
        """
        known = {"name", "classes", "palette", "preprocess", "postprocess"}
        if not isinstance(values, Mapping) or not {"name", "preprocess"} <= set(values) <= known:
            raise ValueError(f"not the usage of a network: {values}")
        name, classes = values["name"], values.get("classes")
        if not isinstance(name, str):
            raise ValueError(f"name={name!r} must be a string")
        if classes is not None and not (
            isinstance(classes, list | tuple) and all(isinstance(each, str) for each in classes)
        ):
            raise ValueError(f"classes={classes!r} must be a list of names")
        palette, postprocess = values.get("palette"), values.get("postprocess")
        return cls(
            name=name,
            preprocess=Preprocess.from_dict(values["preprocess"]),
            postprocess=None if postprocess is None else Postprocess.from_dict(postprocess),
            classes=None if classes is None else tuple(classes),
            palette=None if palette is None else palette_of(palette),
        )


def plain_records(
    classes: tuple[str, ...] | None,
    palette: Palette | None,
    preprocess: Preprocess | None,
    postprocess: Postprocess | None,
) -> dict[str, Any]:
    """Those that are known, as JSON has them: the metadata of weights and exported files."""
    values = {
        "classes": None if classes is None else list(classes),
        "palette": None if palette is None else [list(colour) for colour in palette],
        "preprocess": None if preprocess is None else preprocess.to_dict(),
        "postprocess": None if postprocess is None else postprocess.to_dict(),
    }
    return {key: value for key, value in values.items() if value is not None}


def palette_of(value: Any) -> Palette:
    """A palette as metadata have it, in tuples.

    Raises:
        ValueError: anything but a list of three integers from 0 to 255 per class.
    """

    def is_colour(colour: Any) -> bool:
        return (
            isinstance(colour, list | tuple)
            and len(colour) == 3
            and all(type(part) is int and 0 <= part <= 255 for part in colour)
        )

    if not isinstance(value, list | tuple) or not all(map(is_colour, value)):
        raise ValueError("palette is not a list of [red, green, blue], each 0 to 255")
    return tuple((red, green, blue) for red, green, blue in value)
