"""A model whose network is computed elsewhere answers as with its own weights, which are gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmseg.structures import SegDataSample

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.errors import UserError
from hardnet_suite.inference import ssd_boxes
from hardnet_suite.inference.boxes import centernet_boxes
from hardnet_suite.inference.prepare import Placement
from hardnet_suite.networks import build_network
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights.convert import in_target, openmm_target

CONFIGS = {
    "hardnet39ds": "hardnet39ds_tiny_imagenet10",
    "ssd224_hardnet29": "demo_ssd224_shapes",
    "centernet_hardnet68": "centernet_hardnet68",
    "fchardnet70": "fchardnet70_camvid",
}
SCOPES = {"hardnet39ds": "mmengine", "fchardnet70": "mmseg"}
SIZES = {"hardnet39ds": (64, 64), "ssd224_hardnet29": (224, 224)}
COUNTS = {"hardnet39ds": 10, "ssd224_hardnet29": 6, "fchardnet70": 11}


def lively(name: str, count: int):
    torch.manual_seed(0)
    network = build_network(name, num_classes=count).train()
    with torch.no_grad():
        network(torch.randn(2, 3, *SIZES.get(name, (64, 96))))
    return network.eval()


def built(name: str, network, **test_cfg):
    """The model of a config with the network's weights, and a batch of two images for it."""
    cfg: Config = load_config(CONFIGS[name])
    cfg.model.init_cfg = None
    if "bbox_head" in cfg.model:
        cfg.model.bbox_head.num_classes = network.num_classes
    if test_cfg:
        cfg.model.test_cfg.update(test_cfg)
    with DefaultScope.overwrite_default_scope(SCOPES.get(name, "mmdet")):
        model = MODELS.build(cfg.model).eval()
    model.load_state_dict(in_target(name, network.state_dict(), openmm_target(name)))
    height, width = SIZES.get(name, (64, 96))
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
    if name == "hardnet39ds":
        return model, {"inputs": images, "labels": torch.zeros(2).long(), "names": ["a", "b"]}
    meta = {"ori_shape": (50, 70), "img_shape": (height, width), "scale_factor": (width / 70, height / 50)}
    kind = SegDataSample if name == "fchardnet70" else DetDataSample
    return model, {"inputs": list(images), "data_samples": [kind(metainfo=dict(meta)) for _ in images]}


def tensors(answer) -> list[torch.Tensor]:
    if isinstance(answer, dict):
        return [answer["scores"]]
    if "pred_sem_seg" in answer:
        return [answer.pred_sem_seg.data, answer.seg_logits.data]
    found = answer.pred_instances
    maps = [answer.pred_heatmap.data] if "pred_heatmap" in answer else []
    return [found.bboxes, found.scores, found.labels, *maps]


@pytest.mark.parametrize(
    ("name", "test_cfg"),
    [
        ("hardnet39ds", {}),
        ("ssd224_hardnet29", {}),
        ("centernet_hardnet68", {"max_per_img": 20}),
        ("centernet_hardnet68", {"max_per_img": 20, "flip_test": True, "keep_heatmap": True}),
        ("fchardnet70", {}),
        ("fchardnet70", {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)}),
    ],
)
def test_the_same_answers(name, test_cfg):
    network = lively(name, COUNTS.get(name, 80))
    model, data = built(name, network, **test_cfg)
    with torch.inference_mode():
        expected = [tensors(answer) for answer in model.test_step(data)]
    calls = []
    model.replace_network(lambda inputs: calls.append(inputs.shape) or network(inputs))
    assert all(parameter.isnan().all() for parameter in model.parameters())
    with torch.inference_mode():
        found = [tensors(answer) for answer in model.test_step(data)]
    assert calls
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", ["ssd224_hardnet29", "centernet_hardnet68"])
def test_boxes_of_the_network_itself(name, rescale):
    """Decoded and suppressed in the input, by the rule of the model; then they go to the image."""
    network = lively(name, 3)
    model, data = built(name, network, score_thr=0.05)
    head = model.bbox_head
    rule = head.rule() if name.startswith("ssd") else head.rule
    if name.startswith("ssd"):  # which counts whole pixels, of the input here
        rule = replace(rule, iou_offset=0)
        head.test_cfg.nms.offset = 0
    height, width = SIZES.get(name, (64, 96))

    def boxes_of(inputs):
        places = [Placement((height, width), (height, width))] * len(inputs)
        if name.startswith("ssd"):
            answers = ssd_boxes(network(inputs), network.arch, places, rule)
        else:
            answers = centernet_boxes(network, inputs, places, rule)
        most = 1 + max(len(answer.boxes) for answer in answers)
        out = {
            "boxes": torch.zeros(len(inputs), most, 4),
            "scores": torch.full((len(inputs), most), -1.0),
            "labels": torch.full((len(inputs), most), -1),
        }
        for index, answer in enumerate(answers):
            for key, values in zip(out, answer, strict=True):
                out[key][index, : len(values)] = values
        return out

    metas = [sample.metainfo for sample in data["data_samples"]]
    images = model.data_preprocessor(data)["inputs"]
    with torch.inference_mode():
        expected = model.predict(images, [DetDataSample(metainfo=dict(meta)) for meta in metas], rescale)
        model.replace_network(boxes_of, returns_boxes=True)
        found = model.predict(images, [DetDataSample(metainfo=dict(meta)) for meta in metas], rescale)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs.pred_instances.bboxes) > 0
        torch.testing.assert_close(tensors(ours), tensors(theirs), rtol=1e-4, atol=1e-2)


def test_a_diverged_network_is_an_error_elsewhere_too():
    network = lively("centernet_hardnet68", 3)
    model, data = built("centernet_hardnet68", network)
    rows = {
        "boxes": torch.full((2, 1, 4), torch.nan),
        "scores": torch.ones(2, 1),
        "labels": torch.zeros(2, 1),
    }
    model.replace_network(lambda inputs: rows, returns_boxes=True)
    with pytest.raises(UserError, match="NaN or infinity"):
        model.test_step(data)
