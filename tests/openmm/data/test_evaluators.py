"""Which evaluator may score a data set: the same ones in training and in tests."""

from __future__ import annotations

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmseg.evaluation import IoUMetric

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import require_evaluator
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.test import TestOptions, plan_test

CONFIGS = {
    "detection": "ssd512_hardnet68",
    "panoptic": "mask2former_hardnet68_panoptic",
    "segmentation": "fchardnet70_camvid",
    "classification": "hardnet68_imagenet",
    "descriptor": "hardnet_descriptor_liberty",
}
LOADERS = ["val_dataloader", "test_dataloader"]


@METRICS.register_module()
class OwnScore(BaseMetric):
    def process(self, data_batch, data_samples) -> None: ...

    def compute_metrics(self, results) -> dict:
        return {}


def scored_by(task, evaluator):
    cfg = load_config(CONFIGS[task])
    cfg.val_evaluator = cfg.test_evaluator = (
        evaluator(cfg.val_evaluator) if callable(evaluator) else evaluator
    )
    return cfg


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize(
    "evaluator",
    [
        lambda own: own,
        lambda own: [own],
        lambda own: {"metrics": [own]},
        lambda own: {**own, "type": f"mmengine.{own.type}"},
        lambda own: {**own, "type": METRICS.get(own.type)},
        lambda own: [own, {"type": "OwnScore"}],
        lambda own: {"type": "OwnScore"},
        lambda own: [own, {"type": "mmengine.DumpResults", "out_file_path": "a.pkl"}],
        lambda own: [own, {"type": "mmdet.DumpDetResults", "out_file_path": "a.pkl"}],
    ],
)
def test_evaluators_of_the_task_and_of_the_user(task, evaluator):
    require_evaluator(scored_by(task, evaluator), LOADERS)


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize(
    ("evaluator", "name"),
    [
        ({"type": "mmdet.CocoMetric", "metric": "bbox"}, "CocoMetric"),
        ({"type": "mmseg.IoUMetric"}, "IoUMetric"),
        ({"type": IoUMetric}, "IoUMetric"),
        (lambda own: [own, {"type": "mmseg.IoUMetric"}], "IoUMetric"),
        (lambda own: {"type": "Evaluator", "metrics": [own, {"type": "mmdet.VOCMetric"}]}, "VOCMetric"),
    ],
)
def test_those_of_openmmlab_are_refused(task, evaluator, name):
    cfg = scored_by(task, evaluator)
    for loader in LOADERS:
        where = loader.replace("dataloader", "evaluator")
        with pytest.raises(UserError, match=rf"the config's {where} is {name}, .*set {where}=dict\(_delete_"):
            require_evaluator(cfg, [loader])


def test_the_default_scope_decides_what_a_plain_name_means():
    with pytest.raises(UserError, match="val_evaluator is IoUMetric"):
        require_evaluator(scored_by("segmentation", {"type": "IoUMetric"}), LOADERS)
    with pytest.raises(UserError, match=r'val_evaluator is CocoMetric.*"DetectionDataset" in val_dataloader'):
        require_evaluator(scored_by("detection", {"type": "CocoMetric"}), LOADERS)


def test_mmdets_data_set_may_have_mmdets_evaluator():
    cfg = scored_by("detection", {"type": "CocoMetric"})
    cfg.val_dataloader.dataset.type = "CocoDataset"
    require_evaluator(cfg, ["val_dataloader"])


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("other", CONFIGS)
def test_the_evaluator_of_another_task(task, other):
    evaluator = {"type": load_config(CONFIGS[other]).val_evaluator.type}
    cfg = scored_by(task, evaluator)
    if task == other:
        require_evaluator(cfg, ["val_dataloader"])
        return
    with pytest.raises(
        UserError, match=rf"{evaluator['type']} scores one .*val_dataloader's \(it has a {task}"
    ):
        require_evaluator(cfg, ["val_dataloader"])


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("kind", ["ConcatDataset", "mmengine.ConcatDataset"])
def test_two_data_sets_of_one_annotation_file(task, kind):
    cfg = load_config(CONFIGS[task])
    dataset = cfg.val_dataloader.dataset
    cfg.val_dataloader.dataset = {"type": kind, "datasets": [dataset, dataset]}
    if task not in ("detection", "panoptic"):  # each sample has its label
        require_evaluator(cfg, ["val_dataloader"])
        return
    several = rf"scores one .*val_dataloader's \(it has a {task} data set and a {task} data set\)"
    with pytest.raises(UserError, match=several):
        require_evaluator(cfg, ["val_dataloader"])


@pytest.mark.parametrize("task", CONFIGS)
def test_a_test_refuses_them_alike(task, tmp_path):
    for evaluator in ({"type": "mmseg.IoUMetric"}, {"type": "mmdet.CocoMetric"}):
        cfg = scored_by(task, evaluator)
        cfg.work_dir = str(tmp_path)
        with pytest.raises(UserError) as error:
            plan_test(cfg, None, TestOptions())
        with pytest.raises(UserError) as expected:
            require_evaluator(cfg, ["test_dataloader"])
        assert str(error.value) == str(expected.value)
