"""The classifier as an mmengine model."""

from __future__ import annotations

import pytest
from mmengine.registry import MODELS

import hardnet_suite.openmm  # noqa: F401  (registers the model)
from hardnet_suite.errors import UserError


@pytest.mark.parametrize("classes", [1, 2])
def test_a_single_class_is_refused_before_a_training(classes):
    config = {
        "type": "ImageClassifier",
        "arch": "hardnet39ds",
        "num_classes": classes,
        "data_preprocessor": {"type": "ClassificationPreprocessor", "mean": [0.0] * 3, "std": [1.0] * 3},
    }
    if classes == 2:
        assert MODELS.build(config).network.num_classes == 2
        return
    with pytest.raises(UserError, match=r"model\.num_classes is 1: a classifier with one class"):
        MODELS.build(config)


def classifier(preprocessor=None, **options):
    normalize = {"type": "ClassificationPreprocessor", "mean": [0.0] * 3, "std": [1.0] * 3, "num_classes": 2}
    config = {"type": "ImageClassifier", "arch": "hardnet39ds", "num_classes": 2}
    return MODELS.build(config | options | {"data_preprocessor": normalize | (preprocessor or {})})


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan"), "0.1", True, None])
def test_label_smoothing_is_a_share(value):
    with pytest.raises(
        UserError, match=rf"^model\.label_smoothing must be a number from 0 to 1, got {value!r}"
    ):
        classifier(label_smoothing=value)


@pytest.mark.parametrize("key", ["mixup", "cutmix", "mix_probability"])
@pytest.mark.parametrize("value", [-0.5, float("inf"), "0.1"])
def test_how_batches_are_mixed_is_checked(key, value):
    """The probability also where nothing is mixed."""
    with pytest.raises(UserError, match=rf"^model\.data_preprocessor\.{key} must be a .*number") as raised:
        classifier({key: value})
    assert "\n" not in str(raised.value)


def test_the_bounds_of_these_options():
    for smoothing in (0, 1, 0.1):
        classifier({"mixup": 1, "cutmix": None, "mix_probability": smoothing}, label_smoothing=smoothing)
