"""What a comparison of a file with PyTorch counts, and what it says."""

from __future__ import annotations

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from deploy.exported import a_record
from PIL import Image
from tiny_networks import tiny
from torch import nn

from hardnet_suite.data.sources import SourceImage
from hardnet_suite.deploy import agreement
from hardnet_suite.deploy.agreement import TOLERANCES, Tolerance, require_agreement
from hardnet_suite.deploy.exporting import export_file
from hardnet_suite.errors import UserError
from hardnet_suite.networks import default_usage


def constant_images(count: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), 1 + index, np.uint8) for index in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("options", [{"batch": 1}, {"batch": 2}, {"batch": 4}, {"dynamic": "batch"}])
def test_images_that_fill_a_batch_up_are_not_counted(tmp_path, options, count):
    images, network = constant_images(count), tiny("hardnet68")
    made = export_file(
        network, tmp_path / "net.pt", size=64, includes=("preprocess",), images=images, **options
    )
    rows = []

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        inputs = made.record.usage.preprocess.normalize(torch.from_numpy(pixels))
        rows.extend(pixels[:, 0, 0, 0].tolist())
        with torch.inference_mode():
            logits = network(inputs)
        is_last = torch.from_numpy(pixels[:, 0, 0, 0] == count)
        return [torch.where(is_last[:, None], -logits, logits).numpy()]  # wrong for the last image alone

    seen = require_agreement(
        run, network, made.record, images, name="a", tolerance=Tolerance(np.inf, 0.0, 0.0)
    )
    assert made.agreement.images == seen.images == count
    assert {*rows} == {*range(1, 1 + count)}
    assert seen.drop == pytest.approx(100 / count)


@pytest.mark.parametrize("name", ["hardnet68", "hardnet_descriptor"])
def test_images_are_opened_one_at_a_time(monkeypatch, name):
    references, alive = [], []

    def opened() -> Image.Image:
        image = Image.new("RGB", (64, 64))
        references.append(weakref.ref(image))
        alive.append(sum(reference() is not None for reference in references))
        return image

    sources = [SourceImage(f"{index}.jpg", opened) for index in range(6)]
    monkeypatch.setattr(agreement, "images_of", lambda _: sources)
    usage, side = default_usage(name), 64 if name == "hardnet68" else 32
    record = a_record(name, usage=usage, input_shape=(1, 3, side, side), in_chans=len(usage.preprocess.mean))
    list(agreement.file_inputs(record, "photographs", 6))
    assert len(alive) == 6
    assert max(alive) <= 2  # the one that is prepared, and the next


def test_patches_that_fill_a_batch_up_are_nobodys_nearest(tmp_path):
    network = tiny("hardnet_descriptor")
    images = list(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8))
    made = export_file(network, tmp_path / "net.pt", batch=32, images=images)

    def run(patches: np.ndarray) -> list[np.ndarray]:
        """Something else than the network, the same for the same patch."""
        return [np.stack([np.random.default_rng(list(each.tobytes()[:64])).random(128) for each in patches])]

    seen = require_agreement(
        run,
        network,
        replace(made.record, precision="int8"),
        images,
        name="a",
        tolerance=Tolerance(np.inf, 0.0, 0.0),
    )
    assert seen.images == made.agreement.images == 4 * 2 + 3
    assert seen.drop > 50


@pytest.mark.parametrize("name", ["ssd512_hardnet68", "centernet_hardnet68"])
@pytest.mark.parametrize(("least", "words"), [(0.0, "% of boxes equal"), (0.9, "no boxes compared")])
def test_a_comparison_without_boxes_says_so(tmp_path, name, least, words):
    network = tiny(name)
    for key, value in network.named_parameters():
        if least and (key.startswith("cls.") or ".hm." in key):
            nn.init.zeros_(value)  # each class is as likely as the others
    usage = network.usage
    network.usage = replace(usage, postprocess=replace(usage.postprocess, score_threshold=least))
    seen = export_file(network, tmp_path / "net.pt", size=None if "ssd" in name else 128).agreement
    assert words in str(seen)
    assert (seen.answers is None) == (seen.drop is None) == bool(least)
    assert seen.values <= TOLERANCES["fp32"].values


def test_a_camera_never_ends(tmp_path):
    with pytest.raises(UserError, match="got a camera, which never ends"):
        export_file(tiny("hardnet68"), tmp_path / "net.pt", size=64, images=["a.png", 0])
    assert not list(tmp_path.iterdir())
