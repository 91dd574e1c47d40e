"""SSD-HarDNet as an mmdet detector: parity with the published program, its configs, training, validation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from reference import assert_parity
from tiny_networks import TINY

import hardnet_suite.openmm  # noqa: F401
from hardnet_suite.data.shapes import draw_scene
from hardnet_suite.networks import ARCHS, PREPROCESS, build_network
from hardnet_suite.openmm.compat import repair_ssd_heads
from hardnet_suite.openmm.run.configs import walk
from hardnet_suite.weights import convert_official

OFFICIAL = ("ssd512_hardnet68", "ssd512_hardnet85")
CONFIGS = Path(__file__).resolve().parents[3] / "configs"
SMALL = "ssd224_hardnet29"


@pytest.fixture(autouse=True)
def _mmdet_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def build(name: str):
    """The detector of a config of the suite, with random weights."""
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    cfg.model.init_cfg = None
    return MODELS.build(cfg.model)


def flat(maps, values: int) -> torch.Tensor:
    """Maps (1, A·values, h, w), one a level -> (P, values)."""
    return torch.cat([m[0].permute(1, 2, 0).reshape(-1, values) for m in maps])


# --- parity with the published program


class Parity:
    """The detector with the official weights, and what it makes of the official input."""

    def __init__(self, name: str, golden):
        with DefaultScope.overwrite_default_scope("mmdet"):
            self.detector = build(name).eval()
        weights = convert_official(name, golden.state_dict(name), target="mmdet")
        self.loaded = self.detector.load_state_dict(weights, strict=True)
        with torch.no_grad():
            self.cls, self.box = self.detector.bbox_head(self.detector.extract_feat(golden.input(name)))
        arrays = golden.arrays("golden.npz")
        self.rows, self.priors = arrays["ssd512/rows"], arrays["ssd512/priors"].astype(np.float64)
        self.loc, self.conf = arrays[f"{name}/loc"][0], arrays[f"{name}/conf"][0]

    @property
    def head(self):
        return self.detector.bbox_head

    @property
    def anchors(self) -> torch.Tensor:
        """(P, 4) x1 y1 x2 y2 in pixels."""
        sizes = [m.shape[-2:] for m in self.cls]
        return torch.cat(self.head.prior_generator.grid_priors(sizes, device="cpu"))


_parity = cache(Parity)


@pytest.fixture(scope="module", params=OFFICIAL)
def parity(request, golden) -> Parity:
    return _parity(request.param, golden)


def official_boxes(loc: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """SSD's decoding with the variances 0.1 and 0.2: (P, 4) x1 y1 x2 y2, fractions of the image."""
    loc = loc.astype(np.float64)
    centres = priors[:, :2] + loc[:, :2] * 0.1 * priors[:, 2:]
    sizes = priors[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_the_official_weights_load_strictly(parity):
    assert not parity.loaded.missing_keys
    assert not parity.loaded.unexpected_keys


def test_anchors_are_the_official_priors(parity):
    anchors = parity.anchors.double() / 512
    assert anchors.shape == (32756, 4)
    centres_sizes = torch.cat([(anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]], 1)
    np.testing.assert_allclose(centres_sizes.numpy(), parity.priors, rtol=0, atol=2e-6)
    assert parity.head.prior_generator.num_base_priors == [6, 6, 6, 6, 6, 4, 4]


def test_boxes_and_probabilities_of_every_reference_row(parity):
    rows = torch.from_numpy(parity.rows)
    loc, conf = flat(parity.box, 4)[rows], flat(parity.cls, 81)[rows]
    assert_parity(loc, torch.from_numpy(parity.loc))
    assert_parity(conf.roll(1, 1), torch.from_numpy(parity.conf))

    boxes = parity.head.bbox_coder.decode(parity.anchors[rows], loc).numpy() / 512
    expected = official_boxes(parity.loc, parity.priors[parity.rows])
    assert (expected.min(), expected.max()) < (0, 1)  # some leave the image
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(boxes.clip(0, 1), expected.clip(0, 1), rtol=0, atol=1e-4)
    np.testing.assert_allclose(conf.softmax(1).roll(1, 1).numpy(), softmax(parity.conf), rtol=1e-3, atol=1e-5)


def official_detections(
    boxes: np.ndarray, scores: np.ndarray, *, threshold: float = 0.45, offset: float = 1, clip_first=()
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The published test on boxes (P, 4) in pixels and scores (P, 1 + classes), background first.

    Class by class: score > 0.01, greedy suppression above the IoU of boxes with +1 pixel wide sides; then
    the 200 best of all classes. Returns boxes, scores and labels (from 0), by falling score.
    """
    if clip_first:
        boxes = boxes.clip(0, [*clip_first, *clip_first])
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    overlaps = (sides + offset).clip(0).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2] + offset).prod(-1)
    suppresses = overlaps / (areas[:, None] + areas - overlaps) > threshold
    found = []
    for label in range(1, scores.shape[1]):
        candidates = np.flatnonzero(scores[:, label] > 0.01)
        order = candidates[np.argsort(-scores[candidates, label], kind="stable")]
        while len(order):
            first, order = order[0], order[1:]
            found.append((scores[first, label], label - 1, first))
            order = order[~suppresses[first, order]]
    best, labels, rows = zip(*sorted(found, reverse=True)[:200], strict=True)
    return boxes[list(rows)], np.array(best), np.array(labels)


WIDTH, HEIGHT = 640, 427


@pytest.fixture(scope="module", params=["their own priors", "crowded priors"])
def contest(request, parity):
    """Our detections where the reference rows alone compete, and the official boxes and scores.

    Their own priors lie far apart; moved to the first ones, row after row of small boxes, they crowd.
    """
    head, count = parity.head, len(parity.rows)
    rows = parity.rows if request.param == "their own priors" else np.arange(count)
    loc = np.zeros((len(parity.priors), 4), np.float32)
    conf = np.zeros((len(parity.priors), 81), np.float32)
    conf[:, 0] = 30  # background
    loc[rows], conf[rows] = parity.loc, parity.conf

    def maps(values: np.ndarray) -> list[torch.Tensor]:
        """(P, V) -> one map (1, A·V, h, w) a level."""
        levels, start = [], 0
        for level, boxes in zip(parity.cls, head.prior_generator.num_base_priors, strict=True):
            h, w = level.shape[-2:]
            part = torch.from_numpy(values[start : start + h * w * boxes])
            levels.append(part.reshape(1, h, w, -1).permute(0, 3, 1, 2))
            start += h * w * boxes
        assert start == len(values)
        return levels

    meta = {
        "img_shape": (512, 512),
        "ori_shape": (HEIGHT, WIDTH),
        "scale_factor": (512 / WIDTH, 512 / HEIGHT),
    }
    cls, box = maps(np.roll(conf, -1, axis=1)), maps(loc)  # background last
    (ours,) = head.predict_by_feat(cls, box, batch_img_metas=[meta], rescale=True)
    (inside,) = head.predict_by_feat(cls, box, batch_img_metas=[meta], rescale=False)
    boxes = official_boxes(parity.loc, parity.priors[rows]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    return ours, inside, boxes, softmax(parity.conf)


def assert_same_detections(ours: InstanceData, official: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    boxes, scores, labels = official
    boxes = boxes.clip(0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    np.testing.assert_array_equal(ours.labels.numpy(), labels)
    np.testing.assert_allclose(ours.scores.numpy(), scores, rtol=1e-5)
    np.testing.assert_allclose(ours.bboxes.numpy(), boxes, rtol=0, atol=2e-3)


def test_final_boxes_are_the_official_ones(contest):
    ours, _, boxes, scores = contest
    assert len(ours) == 200
    assert_same_detections(ours, official_detections(boxes, scores))


@pytest.mark.parametrize(("parity", "contest"), [("ssd512_hardnet68", "crowded priors")], indirect=True)
@pytest.mark.parametrize("mutation", [{"offset": 0}, {"threshold": 0.5}, {"clip_first": (WIDTH, HEIGHT)}])
def test_that_comparison_sees_every_detail(contest, mutation):
    ours, _, boxes, scores = contest
    with pytest.raises(AssertionError):
        assert_same_detections(ours, official_detections(boxes, scores, **mutation))


def test_without_rescaling_boxes_stay_in_the_networks_image(contest):
    _, inside, _, _ = contest
    assert len(inside) == 200
    assert inside.bboxes.min() >= 0
    assert 427 < inside.bboxes.max() <= 512


def test_nothing_above_the_score_threshold_gives_no_boxes(parity):
    cls, box = [torch.zeros_like(m) for m in parity.cls], [torch.zeros_like(m) for m in parity.box]
    for m, boxes in zip(cls, parity.head.prior_generator.num_base_priors, strict=True):
        m.view(1, boxes, 81, *m.shape[-2:])[:, :, -1] = 30
    meta = {"img_shape": (512, 512), "ori_shape": (300, 200), "scale_factor": (2.56, 1.7067)}
    (found,) = parity.head.predict_by_feat(cls, box, batch_img_metas=[meta], rescale=True)
    assert (len(found), found.bboxes.shape) == (0, (0, 4))


# --- the configs


SSD_CONFIGS = sorted(file.stem for part in ("ssd", "rfb") for file in CONFIGS.glob(f"*{part}*.py"))


@pytest.mark.parametrize("name", SSD_CONFIGS)
def test_a_config_agrees_with_its_row_of_the_table(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    model, row = cfg.model, ARCHS[cfg.arch]
    assert model.arch == cfg.arch
    detector = build(name)
    assert detector.backbone.arch == detector.arch == cfg.arch
    with torch.device("meta"):
        network = build_network(cfg.arch)
    assert detector.backbone.out_channels == network.trunk.channels
    assert list(detector.bbox_head.in_channels) == network.neck.channels == detector.neck.channels

    # the published test cuts nothing before NMS
    assert model.test_cfg.nms_pre == -1  # no cut

    assert cfg.size == row.size == PREPROCESS[cfg.arch].size
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        sizes = []
        walk(loader, lambda node, sizes=sizes: node.get("type") == "Resize" and sizes.append(node))
        assert sizes
        assert all(tuple(node.scale) == (row.size, row.size) and not node.keep_ratio for node in sizes)


@pytest.mark.parametrize("name", SSD_CONFIGS)
def test_the_configs_input_rule_is_that_of_the_network(name):
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    size = ARCHS[cfg.arch].size
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, size, size), dtype=np.uint8))
    batch = preprocessor({"inputs": [rgb[0].flip(0)], "data_samples": [DetDataSample()]})
    expected = PREPROCESS[cfg.arch].normalize(rgb)
    torch.testing.assert_close(batch["inputs"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", ["neck", "bbox_head", "anchors"])
def test_an_arch_that_is_no_ssd_is_refused(part):
    from mmdet.registry import TASK_UTILS

    build = {
        "neck": lambda: MODELS.build(
            {"type": "HarDNetSSDNeck", "arch": "hardnet68", "in_channels": [320, 640]}
        ),
        "bbox_head": lambda: MODELS.build(
            {"type": "HarDNetSSDHead", "arch": "hardnet68", "in_channels": [320]}
        ),
        "anchors": lambda: TASK_UTILS.build({"type": "HarDNetSSDAnchors", "arch": "hardnet68"}),
    }[part]
    with pytest.raises(ValueError, match="arch='hardnet68': expected an SSD"):
        build()


# --- training and validation


def small_detector(**head):
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / "ssd512_hardnet68.py").model
    cfg.init_cfg = None
    cfg.arch = SMALL
    cfg.bbox_head.num_classes = 3
    cfg.bbox_head.update(head)
    return MODELS.build(cfg)


def sample(boxes: list[list[float]], labels: list[int]) -> DetDataSample:
    truth = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.tensor(labels).long())
    shapes = {"img_shape": (224, 224), "ori_shape": (112, 448), "scale_factor": (0.5, 2.0)}
    return DetDataSample(gt_instances=truth, metainfo={**shapes, "pad_shape": (224, 224)})


def image(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 224, 224), dtype=np.uint8))


def losses_of(detector, samples: list[DetDataSample]) -> dict:
    batch = {"inputs": [image(i) for i in range(len(samples))], "data_samples": samples}
    return detector(**detector.data_preprocessor(batch, training=True), mode="loss")


def test_training_reaches_every_parameter():
    detector = small_detector().train()
    truth = [
        sample([[10.0, 10, 60, 90], [100, 20, 220, 200], [4, 150, 14, 162]], [0, 2, 1]),
        sample([[0.0, 0, 224, 224], [80, 80, 150, 130], [180, 5, 215, 85]], [1, 0, 2]),
    ]
    loss, log = detector.parse_losses(losses_of(detector, truth))
    assert log["loss_cls"] > 0
    assert log["loss_bbox"] > 0
    loss.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # the trunk, L2Norm, the bridge and the last extra level all take part
    for part in (
        detector.backbone.trunk.stem,
        detector.neck.norm,
        detector.neck.bridge,
        detector.neck.extras[-1],
    ):
        assert all((p.grad != 0).any() for p in part.parameters())


@pytest.mark.parametrize("name", ["rfb512_hardnet68", "rfb512_hardnet85"])
def test_a_training_step_of_rfb_net_on_drawn_shapes(name, monkeypatch):
    """Through the config, with a thin row of the same layers: every parameter learns, the loss goes down."""
    monkeypatch.setitem(ARCHS, "rfb64_thin", TINY["rfb512_hardnet68"])
    monkeypatch.setitem(PREPROCESS, "rfb64_thin", replace(PREPROCESS[name], size=64))
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / f"{name}.py")
    assert cfg.train_dataloader.drop_last  # batch norms of maps of one pixel need two images
    cfg.model.update(arch="rfb64_thin", init_cfg=None)
    cfg.model.bbox_head.num_classes = 6
    detector = MODELS.build(cfg.model).train()
    scenes = [draw_scene(0, index, 128) for index in range(4)]  # shown at half their size
    shape = {"img_shape": (64, 64), "ori_shape": (64, 64), "pad_shape": (64, 64)}
    samples = [
        DetDataSample(
            metainfo=shape,
            gt_instances=InstanceData(
                bboxes=torch.from_numpy(scene.boxes) / 2, labels=torch.from_numpy(scene.labels)
            ),
        )
        for scene in scenes
    ]
    images = [torch.from_numpy(scene.image[::2, ::2].copy()).permute(2, 0, 1) for scene in scenes]
    options = dict(cfg.optim_wrapper.optimizer)
    optimizer = getattr(torch.optim, options.pop("type"))(detector.parameters(), **options)
    losses = []
    for _ in range(4):
        inputs = detector.data_preprocessor({"inputs": images, "data_samples": samples}, training=True)
        loss, log = detector.parse_losses(detector(**inputs, mode="loss"))
        assert log["loss_cls"] > 0
        assert log["loss_bbox"] > 0
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
        for part in (detector.neck.norm, detector.neck.bridge, *detector.neck.extras):
            assert all(p.grad.any() for p in part.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_batch_without_any_box_has_a_finite_loss():
    detector = small_detector().train()
    loss, _ = detector.parse_losses(losses_of(detector, [sample([], []), sample([], [])]))
    assert loss.isfinite()
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


def test_validation_finds_a_planted_box():
    detector = small_detector().eval()
    head = detector.bbox_head
    for conv in (*head.cls_convs, *head.reg_convs):
        conv.weight.data.zero_()
    for conv in head.cls_convs:  # nothing anywhere …
        conv.bias.data.view(-1, 4)[:] = torch.tensor([0.0, 0, 0, 30])
    # … but in the one cell of the last level; the score threshold is 0.01
    planted = torch.tensor([0.0099, 0.9, 0.0101, 0.08])
    head.cls_convs[-1].bias.data.view(-1, 4)[0] = planted.log()
    batch = {"inputs": [image(0)], "data_samples": [sample([], [])]}
    (found,) = detector.val_step(batch)
    boxes, scores, labels = (found.pred_instances[key] for key in ("bboxes", "scores", "labels"))
    assert labels.tolist() == [1, 2]
    torch.testing.assert_close(scores, planted[1:3])
    side = ARCHS[SMALL].priors.sizes[-2] / 2
    centre = torch.tensor([112.0, 112.0])
    expected = torch.cat([centre - side, centre + side]) / torch.tensor([0.5, 2.0, 0.5, 2.0])
    torch.testing.assert_close(boxes, expected.expand(2, 4))

    data = detector.data_preprocessor(batch)
    (found,) = detector.predict(data["inputs"], data["data_samples"], rescale=False)
    expected = torch.cat([centre - side, centre + side])
    torch.testing.assert_close(found.pred_instances.bboxes, expected.expand(2, 4))


def test_validation_of_mmdets_own_ssd_head():
    """mmdet 3.3 fails here with: 'SSDHead' object has no attribute 'loss_cls'."""
    head = {
        "type": "SSDHead",
        "_delete_": True,
        "in_channels": [128, 192, 256, 256, 256, 256],
        "num_classes": 3,
        "anchor_generator": {
            "type": "SSDAnchorGenerator",
            "scale_major": False,
            "input_size": 300,
            "basesize_ratio_range": (0.15, 0.9),
            "strides": [8, 16, 32, 64, 100, 300],
            "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        },
        "bbox_coder": {
            "type": "DeltaXYWHBBoxCoder",
            "target_means": [0.0] * 4,
            "target_stds": [0.1, 0.1, 0.2, 0.2],
        },
    }
    cfg = Config.fromfile(CONFIGS / "ssd512_hardnet68.py")
    cfg.merge_from_dict({"model": {"bbox_head": head, "init_cfg": None}})
    cfg.model.arch = SMALL
    detector = MODELS.build(cfg.model).eval()
    assert type(detector.bbox_head).__module__ == "mmdet.models.dense_heads.ssd_head"
    repair_ssd_heads(detector)  # as the suite's runner does
    (found,) = detector.val_step({"inputs": [image(0)], "data_samples": [sample([], [])]})
    assert len(found.pred_instances) > 0
