"""What a part tells and draws of its images: counts, an example, a prediction beside its label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine.config import Config

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.data.images import read_rgb
from hardnet_suite.data.shapes import write_shapes
from hardnet_suite.openmm.data.parts import parts

CLASSES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOUR = (255, 0, 255)  # in no drawing
PALETTE = [COLOUR] * len(CLASSES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("parts") / "shapes", train=3, val=2, size=96)


def part_of(dataset):
    cfg = Config({"val_dataloader": {"dataset": dataset}, "model": {}, "default_scope": "mmengine"})
    (part,) = parts(cfg, ["val_dataloader"])
    return part


def detection(root, **options):
    files = {"ann_file": "annotations/instances_val2017.json", "data_prefix": {"img": "val2017"}}
    meta = {"classes": CLASSES, "palette": PALETTE}
    return part_of({"type": "DetectionDataset", "data_root": str(root), "metainfo": meta, **files, **options})


def segmentation(root, **options):
    folders = {"img_path": "val2017", "seg_map_path": "masks/val2017"}
    meta = {"classes": ("ground", *CLASSES), "palette": [(1, 2, 3), *PALETTE]}
    dataset = {
        "type": "SegmentationDataset",
        "data_root": str(root),
        "metainfo": meta,
        "data_prefix": folders,
    }
    return part_of(dataset | options)


def classification(root, **options):
    dataset = {"type": "ClassificationDataset", "data_root": str(root), "folder": "classes/train"}
    return part_of({**dataset, "classes": CLASSES, **options})


def boxes(values, scores, labels):
    return {
        "bboxes": torch.tensor(values, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }


def coloured(image):
    return int((abs(image.astype(int) - COLOUR).max(-1) < 40).sum())


def test_counts_and_an_example(root):
    images = sorted((root / "val2017").iterdir())
    part = detection(root)
    records = part.images()
    assert part.counts() == f"2 images, {sum(len(found) for _, found in records)} boxes"
    assert detection(root, indices=1).counts() == f"1 image, {len(records[0][1])} boxes"
    assert detection(root, annotated=False).counts() == "2 images"
    assert part.example() == images[0]
    assert segmentation(root).counts() == "2 images"
    assert segmentation(root, indices=[1]).example() == images[1]
    part = classification(root)
    assert part.counts() == f"{len(list((root / 'classes/train').rglob('*.png')))} images"
    assert part.example().is_relative_to(root / "classes/train")


def test_detections_beside_the_truth(root):
    part = detection(root)
    image, truth = part.images()[0]
    sample = {"img_id": image.id, "img_path": str(part.path_of(image))}
    nothing = part.draw_sample(sample | {"pred_instances": boxes([], [], [])})
    width = nothing.shape[1]
    assert width >= 2 * 96
    assert coloured(nothing[:, : width // 2]) > 50 * len(truth)
    assert coloured(nothing[:, width // 2 :]) == 0
    found = boxes([[10, 10, 60, 60], [5, 5, 90, 90]], [0.9, 0.1], [0, 1])
    drawn = part.draw_sample(sample | {"pred_instances": found})
    best = boxes([[10, 10, 60, 60]], [0.9], [0])  # the other one is below the threshold
    assert np.array_equal(drawn, part.draw_sample(sample | {"pred_instances": best}))
    assert coloured(drawn[:, width // 2 :]) > 100
    odd = boxes([[10, 10, 60, 60], [0, 0, float("nan"), 9]], [0.9, 0.95], [0, 1])
    assert np.array_equal(drawn, part.draw_sample(sample | {"pred_instances": odd}))


def test_of_many_detections_the_best_are_drawn(root, monkeypatch):
    from hardnet_suite.openmm.data.parts import detection as module

    part, shown = detection(root), []
    monkeypatch.setattr(
        module, "draw_boxes", lambda image, *_, scores=None, **__: shown.append(scores) or image
    )
    image = part.images()[0][0]
    scores = torch.linspace(0.2, 1.0, 200).tolist()
    sample = {"img_id": image.id, "img_path": str(part.path_of(image))}
    part.draw_sample(sample | {"pred_instances": boxes([[1, 1, 9, 9]] * 200, scores, [0] * 200)})
    (drawn,) = (value for value in shown if value is not None)
    assert len(drawn) == 50
    assert drawn.min() == pytest.approx(sorted(scores)[-50])


def test_detections_without_annotations(root):
    part = detection(root, annotated=False)
    image = part.images()[0][0]
    sample = {"img_id": image.id, "img_path": str(part.path_of(image)), "pred_instances": boxes([], [], [])}
    assert np.array_equal(part.draw_sample(sample), read_rgb(part.path_of(image)))


@pytest.mark.parametrize("labelled", [True, False])
def test_a_mask_beside_its_label(root, labelled):
    part = segmentation(root)
    sample = {"img_path": str(part.example()), "pred_sem_seg": {"data": torch.ones(1, 96, 96).long()}}
    if labelled:
        sample["gt_sem_seg"] = {"data": torch.zeros(1, 96, 96).long()}
    drawn = part.draw_sample(sample)
    panels = 4 if labelled else 2  # image, label, prediction, errors
    assert panels * 96 <= drawn.shape[1] < (panels + 1) * 120
    tinted = drawn.astype(int)
    assert ((tinted[..., 0] - tinted[..., 1] > 40) & (tinted[..., 2] - tinted[..., 1] > 40)).sum() > 4000


def test_guesses_below_the_image(root):
    part = classification(root)
    name = str(part.example())
    logits = torch.tensor([0.0, 9.0, 0, 0, 0, 0])
    drawn = part.draw_sample({"scores": logits, "name": name, "label": torch.tensor(1)})
    height, width = read_rgb(name).shape[:2]
    assert drawn.shape[0] > height
    assert drawn.shape[1] >= width
    other = part.draw_sample({"scores": logits.roll(1), "name": name, "label": torch.tensor(1)})
    assert not np.array_equal(drawn, other)
