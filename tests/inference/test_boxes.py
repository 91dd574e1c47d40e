"""Boxes: what the options of the output rule do, on hand-made outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hardnet_suite.inference.boxes import centernet_boxes, ssd_boxes
from hardnet_suite.inference.nms import batched_nms, nms
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import ARCHS, POSTPROCESS, DetectionPostprocess, build_network

ARCH = ARCHS["ssd320_hardnet39ds"]
IMAGE = Placement((320, 320), (320, 320))


@pytest.fixture(scope="module")
def out():
    """An untrained network's maps, with the classes far enough apart to matter."""
    torch.manual_seed(0)
    network = build_network("ssd320_hardnet39ds", num_classes=3).eval()
    with torch.inference_mode():
        maps = network(torch.randn(2, 3, 320, 320))
    return {"cls": [3 * m for m in maps["cls"]], "box": maps["box"]}


def boxes(out, placement=IMAGE, **options):
    rule = replace(POSTPROCESS["ssd320_hardnet39ds"], **options)
    return ssd_boxes(out, ARCH, [placement] * 2, rule)


def test_answers_are_sorted_limited_and_inside(out):
    for answer in boxes(out):
        assert 0 < len(answer.scores) <= 200
        assert (answer.scores.diff() <= 0).all()
        assert (answer.scores > 0.01).all()
        assert answer.boxes.min() >= 0
        assert answer.boxes.max() <= 320
        assert answer.labels.dtype == torch.int64
        assert {*answer.labels.tolist()} <= {0, 1, 2}


def test_every_option_has_an_effect(out):
    usual = boxes(out)[0]
    assert len(boxes(out, max_boxes=7)[0].scores) == 7
    threshold = usual.scores[len(usual.scores) // 2].item()
    above = boxes(out, score_threshold=threshold)[0]
    assert (above.scores > threshold).all()
    assert len(above.scores) < len(usual.scores)
    loose, strict = (boxes(out, iou_threshold=value, max_boxes=100_000)[0] for value in (0.9, 0.1))
    assert len(loose.scores) > len(strict.scores)
    agnostic = boxes(out, class_agnostic=True, max_boxes=100_000)[0]
    assert len(agnostic.scores) < len(boxes(out, max_boxes=100_000)[0].scores)
    few = boxes(out, max_before_nms=5, max_boxes=100_000)[0]
    assert len(few.scores) <= 5 * len(out["box"])
    free = boxes(out, clip=False)[0].boxes
    assert free.min() < 0 or free.max() > 320
    one = boxes(out, iou_offset=0, max_boxes=100_000)[0]
    assert len(one.scores) != len(boxes(out, max_boxes=100_000)[0].scores)


def test_batch_equals_single(out):
    both = boxes(out)
    for index, answer in enumerate(both):
        single = {key: [m[index : index + 1] for m in maps] for key, maps in out.items()}
        (alone,) = ssd_boxes(single, ARCH, [IMAGE], POSTPROCESS["ssd320_hardnet39ds"])
        for a, b in zip(answer, alone, strict=True):
            torch.testing.assert_close(a, b)


def test_nothing_above_the_threshold(out):
    answer = boxes(out, score_threshold=1.0)[0]
    assert answer.boxes.shape == (0, 4)
    assert answer.labels.shape == answer.scores.shape == (0,)


def test_boxes_are_scaled_to_the_image(out):
    wide = Placement((160, 640), (320, 320), (0.5, 2.0))
    ours, stretched = boxes(out, iou_threshold=1.0)[0], boxes(out, wide, iou_threshold=1.0)[0]
    torch.testing.assert_close(stretched.boxes, ours.boxes * torch.tensor([2, 0.5, 2, 0.5]))


def suppressed_naively(boxes, scores, labels, threshold, offset):
    kept = []
    for k in scores.argsort(descending=True, stable=True).tolist():
        for j in kept:
            if labels[j] != labels[k]:
                continue
            low, high = torch.maximum(boxes[j, :2], boxes[k, :2]), torch.minimum(boxes[j, 2:], boxes[k, 2:])
            overlap = (high - low + offset).clamp(min=0).prod()
            areas = [(boxes[i, 2:] - boxes[i, :2] + offset).prod() for i in (j, k)]
            if overlap / (sum(areas) - overlap) > threshold:
                break
        else:
            kept.append(k)
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_suppression_is_the_naive_one(seed, offset):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(120, 2, generator=generator) * 50
    candidates = torch.cat([corners, corners + 5 + torch.rand(120, 2, generator=generator) * 30], 1)
    scores = torch.rand(120, generator=generator)
    labels = torch.randint(0, 3, (120,), generator=generator)
    naive = suppressed_naively(candidates, scores, labels, 0.45, offset)
    assert batched_nms(candidates, scores, labels, 0.45, offset=offset).tolist() == naive
    assert batched_nms(candidates, scores, labels, 0.45, offset=offset, limit=4).tolist() == naive[:4]
    alone = suppressed_naively(candidates, scores, torch.zeros_like(labels), 0.45, offset)
    assert nms(candidates, scores, 0.45, offset=offset).tolist() == alone
    assert batched_nms(candidates, scores, labels, 0.45, offset=offset, class_agnostic=True).tolist() == alone


def test_suppression_looks_further_where_the_best_overlap(monkeypatch):
    monkeypatch.setattr("hardnet_suite.inference.nms._FIRST", 2)
    corners = torch.arange(40.0).div(8, rounding_mode="floor")[:, None] * 100
    candidates = torch.cat([corners, corners, corners + 50, corners + 50], 1)
    scores = torch.linspace(1, 0.1, 40)
    labels = torch.zeros(40, dtype=torch.int64)
    assert batched_nms(candidates, scores, labels, 0.5, limit=5).tolist() == [0, 8, 16, 24, 32]


def centers(inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """A peak where the input is brightest: CenterNet's maps of an image with one bright cell."""
    hm = inputs[:, :2, ::4, ::4] * 4 - 2
    size = torch.full((len(inputs), 2, *hm.shape[2:]), 6.0)
    return {"hm": hm, "wh": size, "reg": torch.zeros_like(size)}


@pytest.fixture
def bright():
    inputs = torch.zeros(1, 3, 64, 96)
    inputs[0, 1, 16:20, 40:44] = 1.0
    return inputs


def test_centernet(bright):
    placement = Placement((32, 48), (64, 96), (2.0, 2.0))
    (answer,) = centernet_boxes(centers, bright, [placement], DetectionPostprocess(max_boxes=1))
    assert answer.labels.tolist() == [1]
    torch.testing.assert_close(answer.boxes, torch.tensor([[14.0, 2.0, 26.0, 14.0]]))
    (none,) = centernet_boxes(centers, bright, [placement], DetectionPostprocess(score_threshold=0.99))
    assert len(none.scores) == 0


def test_flip_averages_with_the_mirror_image(bright):
    """The network sees a mirrored image too: half of the score comes from there."""
    calls = []

    def forward(inputs):  # the further to the right, the hotter
        calls.append(inputs)
        out = centers(inputs)
        return out | {"hm": out["hm"] + torch.linspace(0, 1, out["hm"].shape[3])}

    (answer,) = centernet_boxes(
        forward, bright, [Placement((64, 96), (64, 96))], DetectionPostprocess(max_boxes=1, flip=True)
    )
    (inputs,) = calls
    assert torch.equal(inputs[1], bright[0].flip(2))
    hm = forward(inputs)["hm"].sigmoid()
    torch.testing.assert_close(answer.scores[0], (hm[0] + hm[1].flip(2))[1].max() / 2)
    assert answer.scores[0] != hm[0].max()
