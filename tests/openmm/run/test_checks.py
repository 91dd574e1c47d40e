"""What is checked of a run before its first iteration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from torch import nn

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.checks import require_candidates
from hardnet_suite.openmm.run.runner import SuiteRunner


def detector(*, queries: int, kept: int | None, sigmoid: bool = False, classes: int = 6) -> nn.Module:
    """A detector with the attributes of mmdet's DETR."""
    model, head = nn.Module(), nn.Module()
    model.num_queries, model.bbox_head = queries, head
    head.test_cfg = {} if kept is None else {"max_per_img": kept}
    head.num_classes, head.loss_cls = classes, nn.Module()
    head.loss_cls.use_sigmoid = sigmoid
    return model


@pytest.mark.parametrize(
    "options",
    [
        {"queries": 100, "kept": 100},
        {"queries": 5, "kept": None},
        {"queries": 20, "kept": 120, "sigmoid": True},
    ],
)
def test_as_many_queries_as_boxes(options):
    require_candidates(detector(**options))
    require_candidates(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 99, "kept": 100}, r"max_per_img is 100, but model.num_queries=99 give no more than 99"),
        ({"queries": 20, "kept": 121, "sigmoid": True}, r"num_queries=20 of 6 classes .* than 120 boxes"),
    ],
)
def test_fewer_queries_than_boxes(options, message):
    with pytest.raises(UserError, match=message):
        require_candidates(detector(**options))


@pytest.mark.parametrize("build", [SuiteRunner.build_val_loop, SuiteRunner.build_test_loop])
def test_queries_are_counted_before_the_first_iteration(build):
    """mmengine builds the loop of validation before it trains."""
    runner = SimpleNamespace(model=detector(queries=5, kept=100))
    with pytest.raises(UserError, match="num_queries=5 "):
        build(runner, {})
