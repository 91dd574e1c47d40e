"""From a classifier's logits to its guesses."""

from __future__ import annotations

import pytest
import torch

from hardnet_suite.errors import UserError
from hardnet_suite.inference import logits_to_guesses


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_best_first_and_equal_ones_by_index(classes):
    logits = torch.zeros(2, classes)
    logits[1, -1] = 1
    first, second = logits_to_guesses(logits)
    assert first.labels.tolist() == [*range(classes)]
    assert first.scores.tolist() == pytest.approx([1 / classes] * classes)
    assert second.labels.tolist() == [classes - 1, *range(classes - 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_guesses_whose_probability_is_zero_are_ordered_by_their_logits(dtype):
    logits = torch.tensor([[120.0, 0, 1, 2, 3, 4, 5, 6, 7, 20]], dtype=dtype)
    (guess,) = logits_to_guesses(logits)
    assert guess.labels.tolist() == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert guess.scores.dtype == torch.float32
    assert guess.scores[0] == 1


@pytest.mark.parametrize("images", [1, 4])
def test_one_class_is_no_answer(images):
    """Its softmax is 1, whatever the network says."""
    with pytest.raises(UserError, match="a classifier with one class answers it for every image"):
        logits_to_guesses(torch.randn(images, 1))
