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
