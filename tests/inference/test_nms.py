"""Suppression: answers of compiled mmcv, per-class suppression, and the best boxes first."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st

from hardnet_suite.inference.nms import _operator, batched_nms, iou_with, nms, soft_nms


@pytest.fixture(scope="module")
def reference(golden) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in golden.arrays("mmcv_ops.npz").items()}


def random_boxes(count: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (count, 4) of sides up to 60 and scores (count,)."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * spread
    sides = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corners, corners + sides], 1), torch.rand(count, generator=generator)


@pytest.mark.parametrize("offset", [0, 1])
def test_nms_as_compiled_mmcv(reference, offset):
    keep = nms(reference["boxes"], reference["scores"], 0.5, offset=offset)
    assert torch.equal(keep, reference[f"nms_off{offset}_keep"])


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_as_compiled_mmcv(reference, method, offset):
    keep, scores = soft_nms(reference["boxes"], reference["scores"], method=method, offset=offset)
    assert torch.equal(keep, reference[f"softnms_{method}_off{offset}_keep"])
    torch.testing.assert_close(scores, reference[f"softnms_{method}_off{offset}_dets"][:, 4])


def test_soft_nms_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="method='cubic': expected naive, linear or gaussian"):
        soft_nms(torch.zeros(1, 4), torch.ones(1), method="cubic")


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_batched_nms_as_compiled_mmcv(reference, class_agnostic):
    keep = batched_nms(
        reference["boxes"],
        reference["scores"],
        reference["ids"],
        0.5,
        class_agnostic=class_agnostic,
    )
    assert torch.equal(keep, reference[f"batched_agn{int(class_agnostic)}_keep"])


@pytest.mark.parametrize(
    "spread", [30.0, 3000.0]
)  # so crowded that few are kept, and so sparse that most are
def test_a_limit_gives_the_first_of_all_that_are_kept(spread):
    boxes, scores = random_boxes(6000, spread)
    labels = torch.arange(6000) % 2
    everything = batched_nms(boxes, scores, labels, 0.45, offset=1)
    for limit in (1, 100, 1500):
        keep = batched_nms(boxes, scores, labels, 0.45, offset=1, limit=limit)
        assert torch.equal(keep, everything[:limit])


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(0, 60), st.integers(0, 10_000), st.sampled_from([0, 1]), st.sampled_from([0.3, 0.45, 0.7]))
def test_each_class_is_suppressed_by_itself(count, seed, offset, threshold):
    boxes, scores = random_boxes(count, 60.0, seed)
    labels = torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))
    expected = []
    for index in scores.argsort(descending=True, stable=True).tolist():  # the definition, box by box
        rivals = [other for other in expected if labels[other] == labels[index]]
        overlaps = iou_with(boxes[index], boxes[rivals], offset)
        if not (overlaps > threshold).any():
            expected.append(index)
    assert batched_nms(boxes, scores, labels, threshold, offset=offset).tolist() == expected


def test_far_from_the_origin_classes_do_not_lose_precision():
    """Class offsets of the coordinates would merge or part these pairs."""
    for label in (0, 79):
        boxes = torch.tensor([[4000.0, 4000, 4019, 4009], [4007.585, 4000, 4026.585, 4009]])
        scores, labels = torch.tensor([0.9, 0.8]), torch.tensor([label, label])
        assert len(batched_nms(boxes, scores, labels, 0.45, offset=1)) == 1
        boxes[1, 0::2] += 0.01
        assert len(batched_nms(boxes, scores, labels, 0.45, offset=1)) == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]], dtype=dtype)
    assert nms(boxes, torch.tensor([0.5, 0.75, 0.25], dtype=dtype), 0.5).tolist() == [1, 2]


def test_the_threshold_is_a_float32():
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])  # IoU 3/10, as float32 above the double 0.3
    assert len(nms(boxes, torch.tensor([0.9, 0.8]), 0.3)) == 2
    assert len(nms(boxes, torch.tensor([0.9, 0.8]), 0.2999)) == 1


def test_no_boxes():
    boxes, scores, labels = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    for keep in (
        nms(boxes, scores, 0.5, offset=1),
        soft_nms(boxes, scores)[0],
        batched_nms(boxes, scores, labels, 0.5, limit=10),
    ):
        assert keep.shape == (0,)
        assert keep.dtype == torch.long


@pytest.mark.parametrize("suppressed", [True, False])
def test_suppression_does_not_depend_on_the_class_or_the_place(suppressed):
    """Pairs of boxes 20×10 (+1 pixel included) shifted by a little less or more than IoU 0.45 allows."""
    shift = 20 - 10 * 2 * 0.9 / 1.45 + (-1e-3 if suppressed else 1e-3)
    for place in torch.arange(300.03, 480, 7.31).tolist():
        first = [place, place / 2, place + 19, place / 2 + 9]
        second = [first[0] + shift, first[1], first[2] + shift, first[3]]
        boxes = torch.tensor([first, second], dtype=torch.float32)
        kept = batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([79, 79]), 0.45, offset=1)
        assert len(kept) == 2 - suppressed


def test_the_operator_is_torchvisions_without_its_package():
    code = """
import sys
import torch
from hardnet_suite.inference.nms import nms

generator = torch.Generator().manual_seed(0)
corners = torch.rand(500, 2, generator=generator)
boxes = torch.cat([corners, corners + 0.3 * torch.rand(500, 2, generator=generator)], 1)
scores = torch.rand(500, generator=generator)
keep = nms(boxes, scores, 0.5)
assert "torchvision" not in sys.modules
import torchvision.ops  # loads the library again
assert torch.equal(keep, torchvision.ops.nms(boxes, scores, 0.5))
assert torch.equal(keep, nms(boxes, scores, 0.5))
print(len(keep))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert 1 < int(run.stdout) < 500


def test_a_library_that_does_not_load_leaves_the_package(monkeypatch):
    _operator.cache_clear()
    monkeypatch.setattr(torch.ops, "torchvision", object(), raising=False)
    assert _operator() is torchvision.ops.nms
    _operator.cache_clear()
