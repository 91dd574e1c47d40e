"""Masks: whole and by sliding windows, as mmsegmentation does, and of a single class."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import ConfigDict
from torch.nn import functional as F

import hardnet_suite.openmm.segmentation  # noqa: F401  (before mmseg)
from hardnet_suite.inference.masks import (
    NO_CLASS,
    logits_to_mask,
    mean_to_mask,
    segmentation_logits,
    segmentation_masks,
)
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import SegmentationPostprocess

from mmseg.models import EncoderDecoder  # isort: skip


def network(inputs: torch.Tensor) -> torch.Tensor:
    """Four classes; depends on the window's own size and content, as a real network does."""
    context = inputs.mean((2, 3), keepdim=True)
    return F.avg_pool2d(torch.cat([inputs, inputs[:, :1] - context[:, :1]], 1), 3, 1, 1)


class Windows:
    """mmseg's own sliding window around the network."""

    out_channels = 4

    def __init__(self, window, stride):
        self.test_cfg = ConfigDict(crop_size=window, stride=stride)

    def encode_decode(self, inputs, metas):
        return network(inputs)


@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((64, 96), (32, 32), (21, 21)),
        ((65, 97), (32, 48), (32, 17)),
        ((20, 100), (32, 32), (8, 8)),  # a window that is larger than the image
        ((40, 40), (40, 40), (13, 13)),
    ],
)
def test_sliding_windows_are_mmsegs(size, window, stride):
    torch.manual_seed(0)
    inputs = torch.randn(2, 3, *size)
    theirs = EncoderDecoder.slide_inference(Windows(window, stride), inputs, [{}, {}])
    rule = SegmentationPostprocess(window=window, stride=stride)
    ours = segmentation_logits(network, inputs, [Placement(size, size)] * 2, rule)
    torch.testing.assert_close(torch.stack(ours), theirs)
    whole = segmentation_logits(network, inputs, [Placement(size, size)] * 2, SegmentationPostprocess())
    if window != size:
        assert not torch.allclose(torch.stack(whole), theirs) or window[0] > size[0]


def test_the_mask_has_the_images_size_without_padding():
    inputs = torch.zeros(1, 3, 64, 64)
    inputs[:, 1, :40, :30] = 5.0  # the content; beside it padding, which class 2 would win
    inputs[:, 2, 40:] = inputs[:, 2, :, 30:] = 9.0
    placement = Placement((80, 60), (40, 30), (0.5, 0.5))
    (answer,) = segmentation_masks(lambda x: x, inputs, [placement], SegmentationPostprocess())
    assert answer.mask.shape == (80, 60)
    assert answer.mask.dtype == torch.uint8
    assert (answer.mask == 1).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.9])
def test_a_single_class_is_where_its_probability_exceeds_the_threshold(threshold):
    probabilities = torch.linspace(0.01, 0.99, 99).view(1, 9, 11)
    mask = logits_to_mask(probabilities.logit(), SegmentationPostprocess(threshold=threshold))
    expected = torch.where(probabilities[0] > threshold, 0, NO_CLASS).to(torch.uint8)
    assert (mask != expected).sum() <= 1  # the one at the threshold itself
    assert {*mask.unique().tolist()} == {0, NO_CLASS}


def test_the_mean_of_several_views():
    sure, unsure = torch.tensor([4.0, -4.0]), torch.tensor([-1.0, 1.0])
    views = [sure.view(2, 1, 1), unsure.view(2, 1, 1)]
    assert mean_to_mask(views, SegmentationPostprocess()).item() == 0  # probabilities, not votes
    assert mean_to_mask(views[1:], SegmentationPostprocess()).item() == 1
    views = [torch.tensor([[[3.0, -3.0]]]), torch.tensor([[[-1.0, 1.0]]])]
    assert mean_to_mask(views, SegmentationPostprocess()).tolist() == [[0, NO_CLASS]]
    assert mean_to_mask(views, SegmentationPostprocess(threshold=0.7)).tolist() == [[NO_CLASS, NO_CLASS]]
