"""Predictions drawn at validation, for the trackers of a run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.visualization import LocalVisBackend

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import drawings
from hardnet_suite.openmm.run.drawings import DrawPredictionsHook


class Tracker:
    def __init__(self):
        self.images = {}

    def add_image(self, name, image, step):
        self.images[name] = (image, step)


class ToyPart:
    """Draws the number that a sample holds."""

    def draw_sample(self, sample):
        if sample["value"] < 0:
            raise ValueError("no such prediction")
        return np.full((10, 4000, 3), sample["value"], np.uint8)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Validates on two batches of two images; returns the tracker and the hook."""
    monkeypatch.setattr(drawings, "parts", lambda cfg, loaders: [ToyPart()])
    MMLogger._instance_dict.clear()

    def validate(images=3, values=(1, 2, 3, 4), **changes):
        tracker, hook = Tracker(), DrawPredictionsHook(images=images)
        backends = {"local": LocalVisBackend(str(tmp_path)), "tracker": tracker}
        loop = object.__new__(drawings.EpochBasedTrainLoop)
        runner = SimpleNamespace(
            cfg={},
            epoch=7,
            iter=70,
            _train_loop=loop,
            visualizer=SimpleNamespace(_vis_backends=backends),
            logger=MMLogger.get_instance("drawings"),
        )
        vars(runner).update(changes)
        for _ in range(2):
            hook.before_val_epoch(runner)
            for index in (0, 1):
                batch = [{"value": value} for value in values[2 * index : 2 * index + 2]]
                hook.after_val_iter(runner, index, {}, batch)
        return tracker

    return validate


def test_the_first_images_go_to_the_trackers_alone(run, tmp_path):
    tracker = run()
    assert list(tracker.images) == ["predictions/1", "predictions/2", "predictions/3"]
    image, step = tracker.images["predictions/3"]
    assert step == 7
    assert image.shape[1] == 2048  # large ones are shrunk
    assert int(image.mean()) == 3
    assert not list(tmp_path.rglob("*.png"))


def test_mlflow_takes_files_with_a_suffix(run, monkeypatch):
    monkeypatch.setattr(drawings, "MLflowVisBackend", Tracker)
    assert list(run(images=2).images) == ["predictions/1_step7.png", "predictions/2_step7.png"]


@pytest.mark.parametrize("changes", [{"images": 0}, {"_train_loop": {"type": "a config"}}])
def test_nothing_is_drawn_when_disabled_or_without_a_training(run, changes):
    assert run(**changes).images == {}


def test_without_trackers_nothing_is_drawn(run, monkeypatch, tmp_path):
    monkeypatch.setattr(ToyPart, "draw_sample", lambda self, sample: pytest.fail("drawn in vain"))
    backends = {"local": LocalVisBackend(str(tmp_path))}
    assert run(visualizer=SimpleNamespace(_vis_backends=backends)).images == {}


def test_a_drawing_that_fails_is_one_warning(run, capsys):
    tracker = run(values=(1, -1, 3, 4))
    assert list(tracker.images) == ["predictions/1"]
    assert capsys.readouterr().out.count("predictions cannot be drawn: no such prediction") == 1


@pytest.mark.parametrize("images", [-1, 1.5, True, "4", None])
def test_the_number_of_images_is_checked(images):
    with pytest.raises(UserError, match=r"DrawPredictionsHook\.images is"):
        DrawPredictionsHook(images=images)


def test_samples_may_be_data_elements():
    sample = SimpleNamespace(to_dict=lambda: {"value": torch.ones(1)})
    assert drawings._as_dict(sample)["value"] == 1
