"""Scores of a model of CamVid's classes on IDD Lite, streets in India with labels of seven groups of classes.

    python benchmarks/idd_groups.py fchardnet70 idd20k_lite --weights camvid_trainval --every 4

No weights of this suite were trained on IDD Lite (https://idd.insaan.iiit.ac.in, registration needed): it
shows how they do on streets and cameras that they have not seen. The classes that the model predicts are
joined to the groups; the images of ``leftImg8bit/train`` and ``leftImg8bit/val`` count.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardnet_suite import predict
from hardnet_suite.data.segmentation.label_images import read_label
from hardnet_suite.data.segmentation.labels import LABEL_SETS, LabelSet
from hardnet_suite.data.segmentation.pairs import require_pairs
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.segmentation import SegmentationScores, count_pixels, score_confusion
from hardnet_suite.prediction import LoadedModel, load_model

# group, in the order of its label -> classes of CamVid
GROUPS = {
    "drivable": ("Road",),
    "non-drivable": ("Pavement",),
    "living things": ("Pedestrian", "Bicyclist"),
    "vehicles": ("Car",),  # and motorcycles without a rider, for which CamVid has no class
    "roadside objects": ("Pole", "SignSymbol", "Fence"),
    "far objects": ("Building", "Tree"),
    "sky": ("Sky",),
}
IDD_LITE = LabelSet(
    "IDD Lite",
    tuple(GROUPS),
    palette=(),
    image_endings=("_image.jpg",),
    label_endings=("_label.png",),
)


def group_of(classes: Sequence[str]) -> np.ndarray:
    """The group of each class. Returns (C,) uint8.

    Raises:
        UserError: they are not CamVid's.
    """
    if sorted(classes) != sorted(LABEL_SETS["camvid"].classes):
        raise UserError(f"expected a model of CamVid's classes, got {', '.join(classes)}")
    group = {name: index for index, names in enumerate(GROUPS.values()) for name in names}
    return np.array([group[name] for name in classes], np.uint8)


def score(model: LoadedModel, folder: Path, every: int = 1) -> SegmentationScores:
    """Scores of the groups, on every n-th image of each split in the order of the names."""
    group = group_of(model.classes)
    folders = [(folder / "leftImg8bit" / split, folder / "gtFine" / split) for split in ("train", "val")]
    for part in itertools.chain(*folders):
        if not part.is_dir():
            raise UserError(f"no folder {part}: expected that of IDD Lite, with leftImg8bit and gtFine")
    confusion = np.zeros((len(GROUPS), len(GROUPS)), np.int64)
    for images, labels in folders:
        for image, label in require_pairs(images, labels, IDD_LITE)[::every]:
            (prediction,) = predict(model, image)
            target, answer = read_label(label, IDD_LITE), group[prediction.mask]
            if target.shape != answer.shape:
                raise UserError(f"{label}: {target.shape} pixels, those of {image} are {answer.shape}")
            confusion += count_pixels(target, answer, IDD_LITE)
    return score_confusion(confusion, IDD_LITE)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help="as of predict: a name, a config, a file of weights, the folder of a run"
    )
    parser.add_argument("folder", type=Path, help="idd20k_lite, with leftImg8bit and gtFine")
    parser.add_argument("--weights", help="as of predict: a tag or a file")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every n-th image (1)")
    args = parser.parse_args(arguments)
    if args.every < 1:
        raise UserError(f"--every {args.every}: expected a positive number")
    scores = score(load_model(args.model, weights=args.weights), args.folder, args.every)
    print(scores.table(tuple(GROUPS)))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
