"""CenterNet-HarDNet as an mmdet detector: parity with the published program, boxes known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from reference import assert_parity
from torch import nn

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.networks import build_network
from hardnet_suite.networks.centernet import average_flipped, decode
from hardnet_suite.openmm.models.centernet import HarDNetCenterNetHead, HarDNetCenterNetNeck
from hardnet_suite.openmm.models.initializers import load_checkpoint
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.weights import convert_official

OFFICIAL = ("centernet_hardnet68", "centernet_hardnet85")


@pytest.fixture(autouse=True)
def _mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def build(name: str = "centernet_hardnet68", *, classes: int = 80, **test_cfg):
    """The detector of a config of the suite, with random weights."""
    cfg = load_config(name)
    cfg.model.init_cfg = None
    cfg.model.bbox_head.num_classes = classes
    cfg.model.test_cfg.update(test_cfg)
    return MODELS.build(cfg.model)


def sample(*, size=(64, 64), ori=None, scale=(1.0, 1.0), boxes=(), labels=(), **meta) -> DetDataSample:
    data = DetDataSample(
        metainfo={"img_shape": size, "ori_shape": ori or size, "scale_factor": scale, **meta}
    )
    data.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.tensor(labels).long()
    )
    data.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    return data


def perfect_maps(box, label: int, size: tuple[int, int], classes: int = 3):
    """(hm as probabilities, wh, reg) that say this one box (xyxy, input pixels) in an input of (H, W).

    Size and offset stand in the cells around the centre's, too: in the mirror it may lie in the next one.
    """
    height, width = size[0] // 4, size[1] // 4
    hm, wh, reg = (torch.zeros(1, n, height, width) for n in (classes, 2, 2))
    x1, y1, x2, y2 = (value / 4 for value in box)
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    row, column = int(cy), int(cx)
    hm[0, label, row, column] = 0.9
    for y in range(max(0, row - 1), min(height, row + 2)):
        for x in range(max(0, column - 1), min(width, column + 2)):
            wh[0, :, y, x] = torch.tensor([x2 - x1, y2 - y1])
            reg[0, :, y, x] = torch.tensor([cx - x, cy - y])
    return hm, wh, reg


# --- parity with the published program


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_weights_give_the_official_maps(golden, name):
    detector = build(name).eval()
    weights = convert_official(name, golden.state_dict(name), target="mmdet")
    detector.load_state_dict(weights, strict=True)
    with torch.inference_mode():
        hm, wh, reg = detector(golden.input(name), mode="tensor")
    reference = golden.outputs(name)
    assert_parity(hm, reference["hm"])
    assert_parity(wh, reference["wh"])
    assert_parity(reg, reference["reg"])


def test_the_official_decoding(golden):
    arrays = {
        key: torch.from_numpy(value)
        for key, value in golden.arrays("functions.npz").items()
        if key[:3] == "ct_"
    }
    head = build(clip_border=False).bbox_head
    size = tuple(4 * side for side in arrays["ct_hm"].shape[2:])
    metas = [sample(size=size).metainfo] * 2
    found = head.boxes_of(arrays["ct_hm"], arrays["ct_wh"], arrays["ct_reg"], metas, rescale=True)
    for result, expected in zip(found, arrays["ct_dets"], strict=True):
        torch.testing.assert_close(result.bboxes / 4, expected[:, :4], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(result.scores, expected[:, 4])
        assert torch.equal(result.labels, expected[:, 5].long())


def test_the_official_targets_and_losses(golden):
    arrays = {
        key[4:]: torch.from_numpy(np.asarray(value))
        for key, value in golden.arrays("functions.npz").items()
        if key[:4] == "ctt_"
    }
    head = build(classes=5).bbox_head
    truth = InstanceData(bboxes=arrays["boxes"] * 4, labels=arrays["classes"])
    losses = head.loss_by_feat(arrays["out_hm"], arrays["out_wh"], arrays["out_reg"], [truth], [{}])
    torch.testing.assert_close(losses["loss_hm"], arrays["hm_loss"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_wh"], 0.05 * arrays["wh_loss"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_off"], 0.5 * arrays["off_loss"], rtol=1e-4, atol=1e-5)
    assert losses.keys() == {"loss_hm", "loss_wh", "loss_off"}  # mmengine adds up what begins with "loss"


def test_an_official_file_as_published(golden, tmp_path):
    """A training state: ``state_dict`` with ``module.`` before every key, beside an epoch."""
    weights = golden.state_dict("centernet_hardnet68")
    path = tmp_path / "model.pth"
    torch.save({"epoch": 150, "state_dict": {f"module.{key}": value for key, value in weights.items()}}, path)
    detector = build()
    report = load_checkpoint(detector, path, "centernet_hardnet68")
    assert (report.taken, report.missing, report.unexpected) == (len(weights), (), ())
    assert torch.equal(detector.bbox_head.hm[2].bias, weights["hm.2.bias"])


def test_the_suites_own_weights_load_into_the_detector(tmp_path):
    torch.manual_seed(0)
    network, path = build_network("centernet_hardnet68", num_classes=3), tmp_path / "own.pth"
    torch.save(network.state_dict(), path)
    detector = build(classes=3)
    load_checkpoint(detector, path, "centernet_hardnet68")
    assert torch.equal(detector.neck.last_proj.conv.weight, network.decoder.last_proj.conv.weight)
    assert torch.equal(detector.bbox_head.wh[0].weight, network.wh[0].weight)


def test_other_classes_leave_the_whole_heat_map_branch_fresh(golden, tmp_path):
    path = tmp_path / "coco.pth"
    torch.save(golden.state_dict("centernet_hardnet68"), path)
    detector = build(classes=3)
    report = load_checkpoint(detector, path, "centernet_hardnet68", other_classes=True)
    assert {key.rsplit(".", 1)[0] for key in report.missing} == {"bbox_head.hm.0", "bbox_head.hm.2"}


# --- boxes known beforehand


@pytest.mark.parametrize("rescale", [False, True])
def test_stretched(rescale):
    """An image of 100×200 (height×width), stretched to 64×64."""
    head = build(classes=3).bbox_head
    box = [50.0, 20.0, 120.0, 90.0]  # in the image
    scale = (64 / 200, 64 / 100)
    inside = [box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1]]
    meta = sample(size=(64, 64), ori=(100, 200), scale=scale).metainfo
    (found,) = head.boxes_of(*perfect_maps(inside, 2, (64, 64)), [meta], rescale)
    torch.testing.assert_close(
        found.bboxes[0], torch.tensor(box if rescale else inside), rtol=1e-5, atol=1e-4
    )
    assert found.labels[0] == 2
    assert found.scores[0] == pytest.approx(0.9)
    assert not found.scores[1:].any()


@pytest.mark.parametrize("rescale", [False, True])
def test_padded_around(rescale):
    """An image of 40×50 enlarged twice, in the middle of 128×128: 24 pixels above it, 14 left of it."""
    head = build(classes=3).bbox_head
    meta = sample(
        size=(128, 128), ori=(40, 50), scale=(2.0, 2.0), border=np.array([24, 104, 14, 114])
    ).metainfo
    box = [10.0, 5.0, 30.0, 35.0]
    inside = [10 * 2 + 14, 5 * 2 + 24, 30 * 2 + 14, 35 * 2 + 24]
    (found,) = head.boxes_of(*perfect_maps(inside, 0, (128, 128)), [meta], rescale)
    expected = torch.tensor(box) * (1 if rescale else 2)
    torch.testing.assert_close(found.bboxes[0], expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("clip", "expected"), [(True, [0, 4, 20, 30]), (False, [-6, 4, 20, 30])])
def test_boxes_end_at_the_border_where_asked(clip, expected):
    head = build(classes=3, clip_border=clip).bbox_head
    (found,) = head.boxes_of(*perfect_maps([-6, 4, 20, 30], 0, (64, 64)), [sample().metainfo], True)
    torch.testing.assert_close(found.bboxes[0], torch.tensor(expected).float())


def image_with_box(path, size, box) -> None:
    """A black image of (H, W) with one white rectangle."""
    from PIL import Image

    pixels = np.zeros((*size, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    Image.fromarray(pixels).save(path)


LETTERBOX = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (128, 128), "keep_ratio": True},
    {"type": "CenterPad", "size": (128, 128)},
]


class FromBrightness(nn.Module):
    """Stands in for the network: finds the one white rectangle in each input and says so in perfect maps."""

    def forward(self, images):
        hm, wh, reg = [], [], []
        for image in images:
            white = (image.mean(0) > 0).nonzero()
            (y1, x1), (y2, x2) = white.amin(0).tolist(), (white.amax(0) + 1).tolist()
            maps = perfect_maps([x1, y1, x2, y2], 1, image.shape[1:])
            for parts, one in zip((hm, wh, reg), maps, strict=True):
                parts.append(one)
        return torch.cat(hm).logit(eps=1e-6), torch.cat(wh), torch.cat(reg)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(96, 64), (75, 130), (32, 32), (333, 500)])
@pytest.mark.parametrize("way", ["stretch", "keep", "letterbox"])
def test_from_the_file_to_the_box_and_back(tmp_path, way, size, flip):
    """Through the configs' own test pipelines, the data preprocessor and the detector's prediction."""
    height, width = size
    box = [width // 4, height // 5, width // 4 + width // 2, height // 5 + height // 2]
    path = tmp_path / "image.png"
    image_with_box(path, size, box)
    cfg = load_config(
        {"stretch": "centernet_hardnet85", "keep": "centernet_hardnet68"}.get(way, "centernet_hardnet68")
    )
    pipeline = cfg.test_dataloader.dataset.pipeline
    if way == "letterbox":
        pipeline = [*LETTERBOX, pipeline[-1]]
    item = Compose(pipeline)({"img_path": str(path), "img_id": 1})

    detector = build(classes=3, flip_test=flip, keep_heatmap=True).eval()
    finder = FromBrightness()
    detector.extract_feat = lambda images: images
    detector.bbox_head.forward = finder.forward
    with torch.inference_mode():
        (found,) = detector.test_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})
    # the rectangle is found in whole pixels of the input: to one of them, in the image's
    pixel = {"stretch": max(size) / 512, "keep": 0.0, "letterbox": max(size) / 128}[way]
    tolerance = 1.01 * pixel + 1e-3
    torch.testing.assert_close(
        found.pred_instances.bboxes[0], torch.tensor(box).float(), rtol=0, atol=tolerance
    )
    assert found.pred_instances.labels[0] == 1

    heat = found.pred_heatmap.data[0]
    row, column = divmod(heat.argmax().item(), heat.shape[1])
    centre = ((box[1] + box[3]) / 2 / height * heat.shape[0], (box[0] + box[2]) / 2 / width * heat.shape[1])
    assert abs(row + 0.5 - centre[0]) <= 1.01
    assert abs(column + 0.5 - centre[1]) <= 1.01


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("centernet_hardnet68", (1, 1)),
        ("centernet_hardnet68", (1, 70)),
        ("centernet_hardnet85", (1, 1)),
        ("centernet_hardnet85", (3000, 4000)),
        pytest.param("centernet_hardnet68", (3000, 4000), marks=pytest.mark.slow),  # at its own size
    ],
)
def test_extreme_images_through_the_whole_network(tmp_path, name, size):
    path = tmp_path / "image.png"
    image_with_box(path, size, (0, 0, 1, 1))
    item = Compose(load_config(name).test_dataloader.dataset.pipeline)({"img_path": str(path), "img_id": 1})
    torch.manual_seed(0)
    detector = build(name, classes=2).eval()
    with torch.inference_mode():
        (found,) = detector.test_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})
    boxes = found.pred_instances.bboxes
    assert len(boxes) == len(found.pred_instances.scores) > 0
    assert torch.isfinite(boxes).all()
    assert (boxes >= 0).all()
    assert (boxes[:, 0::2] <= size[1]).all()
    assert (boxes[:, 1::2] <= size[0]).all()


def test_the_mean_of_an_image_and_its_mirror():
    hm, wh, reg = perfect_maps([10, 20, 41, 50], 1, (64, 96))
    mirrored = perfect_maps([96 - 41, 20, 96 - 10, 50], 1, (64, 96))
    both = [torch.cat(pair) for pair in zip((hm, wh, reg), mirrored, strict=True)]
    mean = average_flipped(*both)
    torch.testing.assert_close(mean[0], hm)
    torch.testing.assert_close(mean[1], wh)
    there = hm.amax(1)[0] > 0
    torch.testing.assert_close(mean[2][0][:, there], reg[0][:, there])
    torch.testing.assert_close(decode(*mean, k=1), decode(hm, wh, reg, k=1))
    # by hand, with unequal maps
    x = torch.zeros(2, 2, 1, 2)
    x[0, :, 0, 0] = torch.tensor([0.2, 0.6])
    x[1, :, 0, 1] = torch.tensor([0.4, 0.8])
    assert average_flipped(x, x, x)[2][0, :, 0, 0].tolist() == pytest.approx([(0.2 + 1 - 0.4) / 2, 0.7])


def test_mmdets_own_inference():
    from mmdet.apis import inference_detector, init_detector

    config = str(OWN_CONFIGS / "centernet_hardnet68.py")
    detector = init_detector(config, None, device="cpu", cfg_options={"model.init_cfg": None})
    found = inference_detector(detector, np.zeros((50, 70, 3), np.uint8)).pred_instances
    assert len(found) == 100
    assert (found.bboxes[:, 0::2] <= 70).all()
    assert (found.bboxes[:, 1::2] <= 50).all()


@pytest.mark.parametrize("flip", [True, False])
def test_what_the_flip_test_averages(flip):
    """Maps unlike their mirror images: probabilities, sizes and offsets are averaged, not logits."""
    detector = build(classes=1, flip_test=flip, clip_border=False).eval()
    hm, wh, reg = torch.full((2, 1, 16, 16), -9.0), torch.zeros(2, 2, 16, 16), torch.zeros(2, 2, 16, 16)
    hm[0, 0, 8, 5], hm[1, 0, 8, 15 - 5] = 2.0, 0.0
    wh[0, :, 8, 5], wh[1, :, 8, 15 - 5] = torch.tensor([4.0, 6.0]), torch.tensor([8.0, 2.0])
    reg[0, :, 8, 5], reg[1, :, 8, 15 - 5] = torch.tensor([0.3, 0.5]), torch.tensor([0.5, 0.7])
    detector.extract_feat = lambda images: images
    detector.bbox_head.forward = lambda images: (
        (hm, wh, reg) if len(images) == 2 else (hm[:1], wh[:1], reg[:1])
    )
    images = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        (found,) = detector.predict(images, [sample()])
    best = found.pred_instances[0]
    probability = (torch.tensor(2.0).sigmoid() + 0.5) / 2 if flip else torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(best.scores[0], probability)
    width, height = (6.0, 4.0) if flip else (4.0, 6.0)
    cx, cy = (5 + (0.3 + 1 - 0.5) / 2, 8.6) if flip else (5.3, 8.5)
    expected = torch.tensor([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]) * 4
    torch.testing.assert_close(best.bboxes[0], expected)


def test_without_a_word_boxes_are_not_clipped_as_published():
    head = HarDNetCenterNetHead("centernet_hardnet68", num_classes=3)
    (found,) = head.boxes_of(*perfect_maps([-6, 4, 20, 30], 0, (64, 64)), [sample().metainfo], True)
    assert found.bboxes[0, 0] == -6


# --- training, and what may be wrong with the data


@pytest.mark.parametrize(
    ("boxes", "labels"),
    [
        ([], []),
        ([[10, 10, 30, 40]], [0]),
        ([[10, 10, 30, 40], [10, 10, 30, 40]], [0, 0]),  # two centres in one cell
        ([[10, 10, 30, 40], [11, 10, 30, 40]], [0, 2]),  # … of two classes
        ([[10, 10, 10, 40]], [1]),  # no area
        ([[0, 0, 64, 64]], [2]),
    ],
)
def test_any_truth_gives_finite_losses_and_gradients(boxes, labels):
    torch.manual_seed(0)
    detector = build(classes=3)
    detector.init_weights()
    detector.train()
    truth = sample(boxes=boxes, labels=labels, batch_input_shape=(64, 64))
    losses = detector(
        torch.randn(2, 3, 64, 64), [truth, sample(boxes=[[4, 4, 20, 20]], labels=[1])], mode="loss"
    )
    total, _ = detector.parse_losses(losses)
    total.backward()
    assert math.isfinite(total.item())
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)


def test_the_weights_of_the_three_losses():
    head = build(classes=3).bbox_head
    maps = [torch.zeros(1, channels, 16, 16) for channels in (3, 2, 2)]
    truth = InstanceData(bboxes=torch.tensor([[10.0, 10, 30, 40]]), labels=torch.tensor([0]))
    losses = head.loss_by_feat(*maps, [truth], [{}])
    # zeros say a size of 0 and an offset of 0, everywhere around a centre at (5, 6.25), of size (5, 7.5)
    assert losses["loss_wh"].item() == pytest.approx(0.05 * (5 + 7.5) / 2, rel=1e-3)
    assert losses["loss_off"].item() == pytest.approx(0.5 * 0.25 / 2, rel=0.2)


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    detector = build(classes=2)
    detector.train()
    images = torch.randn(2, 3, 64, 64)
    truth = [sample(boxes=[[8, 8, 40, 40]], labels=[0]), sample(boxes=[[20, 12, 60, 50]], labels=[1])]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    totals = []
    for _ in range(6):
        total, _ = detector.parse_losses(detector(images, truth, mode="loss"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_another_kind_of_row_is_refused():
    with pytest.raises(ValueError, match="'ssd512_hardnet68': expected a CenterNet"):
        HarDNetCenterNetHead("ssd512_hardnet68")


@pytest.mark.parametrize("sides", [[(8, 12), (4, 5)], [(8, 12), (4, 4)], [(6, 8), (3, 4)], [(8, 6), (4, 3)]])
def test_the_neck_refuses_maps_that_do_not_halve(sides):
    """Of images whose sides are not multiples of 32; a map is not stretched to the size of the finer one."""
    with torch.device("meta"):
        neck = HarDNetCenterNetNeck("centernet_hardnet68")
        channels = [
            neck.convs[1].conv.in_channels - neck.blocks[0].out_channels,
            neck.last_proj.conv.in_channels,
        ]
        fine, last = (torch.zeros(1, width, *size) for width, size in zip(channels, sides, strict=True))
        assert neck((torch.zeros(1, channels[0], 8, 12), torch.zeros(1, channels[1], 4, 6)))[0].shape[2:] == (
            16,
            24,
        )
        with pytest.raises(ValueError, match="multiples of 32"):
            neck((fine, last))
