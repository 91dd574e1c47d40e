"""The sample images: written, never over a file of the user, and understood by the weights in the package."""

from __future__ import annotations

import os
from collections import Counter

import pytest

import hardnet_suite
from hardnet_suite.cli import main
from hardnet_suite.cli.samples import MODELS, SAMPLES
from hardnet_suite.weights import registry


def test_every_sample_is_for_weights_in_the_package():
    assert {path.name for path in SAMPLES.iterdir()} == {*MODELS}
    assert {*MODELS.values()} <= {(row.model, row.tag) for row in registry.SHIPPED}


def test_they_are_written_and_written_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["samples", "my images"]) == 0
    for name in MODELS:
        assert (tmp_path / "my images" / name).read_bytes() == (SAMPLES / name).read_bytes()
    assert main(["samples"]) == 0
    out = capsys.readouterr().out
    assert "predict 'my images/cells.jpg' --model ssd320_hardnet39ds --weights bccd" in out
    assert "predict bus.jpg --model hardnet39ds --weights tiny_imagenet10" in out


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_the_user_stays(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"mine")
    assert main(["samples", str(tmp_path)]) == 2
    assert name in capsys.readouterr().err
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def predicted(name: str, **options):
    model, weights = MODELS[name]
    (prediction,) = hardnet_suite.predict(model, str(SAMPLES / name), weights=weights, **options)
    return prediction


def test_cells():
    assert Counter(predicted("cells.jpg", score=0.5).names) == {"RBC": 17, "Platelets": 3, "WBC": 1}


def test_street():
    prediction = predicted("street.jpg")
    classes = prediction.classes
    at = {"Road": (300, 200), "Building": (60, 100), "Sky": (20, 200), "Tree": (60, 400), "Car": (180, 355)}
    for name, (y, x) in at.items():
        assert classes[prediction.mask[y, x]] == name
    assert {"Pavement", "Pedestrian", "Bicyclist", "Pole"} <= {*prediction.names}


def test_bus():
    prediction = predicted("bus.jpg")
    assert prediction.names[0] == "school bus"
    assert prediction.scores[0] > 0.7
