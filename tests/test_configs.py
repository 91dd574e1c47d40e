"""The shipped configs: the published recipes, and that each fits the row of the table it names."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.data.coco import COCO_CLASSES
from hardnet_suite.networks import (
    ARCHS,
    POSTPROCESS,
    PREPROCESS,
    CenterNetArch,
    DescriptorArch,
    HarDNetArch,
    SegmentationArch,
    SSDArch,
    build_network,
)
from hardnet_suite.openmm.data.parts import class_counts, parts, wrong_counts
from hardnet_suite.openmm.run.configs import class_names, drop_pretrained, load_config
from hardnet_suite.openmm.run.keys import without_unread
from hardnet_suite.openmm.run.records import postprocess_of, preprocess_of

# HarDNet as the backbone of another program's model
OTHERS = ("mask2former_hardnet68_panoptic", "mask_rcnn_hardnet68")
ALL = sorted(path.stem for path in OWN_CONFIGS.glob("*.py"))
NAMES = [name for name in ALL if name not in OTHERS]


def transforms(cfg, loader: str) -> list[str]:
    return [step["type"] for step in cfg[loader].dataset.pipeline]


@pytest.mark.parametrize(
    "name", ["ssd512_hardnet68", "ssd512_hardnet85", "rfb512_hardnet68", "rfb512_hardnet85"]
)
def test_published_ssd_recipe(name):
    cfg = load_config(name)
    assert cfg.train_cfg.max_epochs == 150
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.auto_scale_lr.enable
    sgd = {"type": "SGD", "lr": 0.004, "momentum": 0.9, "weight_decay": 1e-4}
    assert cfg.optim_wrapper.optimizer == sgd
    (schedule,) = cfg.param_scheduler
    assert (schedule["milestones"], schedule["gamma"]) == ([90, 120, 140], 0.1)
    augmentation = ["PhotoMetricDistortion", "Expand", "MinIoURandomCrop", "Resize", "RandomFlip"]
    assert transforms(cfg, "train_dataloader")[2:-1] == augmentation
    assert cfg.model.init_cfg == {"type": "HarDNetPretrained", "tag": "base"}
    assert (cfg.model.test_cfg.score_thr, cfg.model.test_cfg.max_per_img) == (0.01, 200)
    assert cfg.model.test_cfg.nms == {"type": "nms", "iou_threshold": 0.45, "offset": 1}


@pytest.mark.parametrize(
    ("name", "epochs", "batch", "lr", "milestones"),
    [
        ("centernet_hardnet85", 300, 48, 0.01, [230, 280]),
        ("centernet_hardnet85_608", 300, 48, 0.01, [230, 280]),
        ("centernet_hardnet68", 150, 24, 0.005, [100, 130]),
    ],
)
def test_published_centernet_recipe(name, epochs, batch, lr, milestones):
    cfg = load_config(name)
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == batch
    assert cfg.auto_scale_lr.enable
    assert cfg.optim_wrapper == {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": lr, "momentum": 0.9, "weight_decay": 1e-4},
    }
    warm_up, schedule = cfg.param_scheduler
    assert warm_up.start_factor * lr == pytest.approx(5e-5)
    assert (warm_up.begin, warm_up.end, warm_up.convert_to_iter_based) == (0, 1, True)
    assert (schedule["milestones"], schedule["gamma"]) == (milestones, 0.1)
    assert cfg.model.init_cfg == {"type": "HarDNetPretrained", "tag": "base"}
    assert transforms(cfg, "train_dataloader") == [
        "LoadImageFromFile",
        "LoadBoxesAndMasks",
        "RandomScaleStretchCrop",
        "RandomFlip",
        "LightingColorJitter",
        "PackDetInputs",
    ]
    crop = cfg.train_dataloader.dataset.pipeline[2]
    assert list(crop.short_sides) == [192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896]
    assert (crop.size, crop.stretch) == (608 if name.endswith("608") else 512, 0.6)
    for loader in ("val_dataloader", "test_dataloader"):
        way = cfg[loader].dataset.pipeline[1]
        if cfg.arch == "centernet_hardnet68":
            assert way == {"type": "CenterPad", "multiple": 32}
            assert cfg[loader].batch_size == 1
        else:
            assert way == {"type": "Resize", "scale": (crop.size, crop.size), "keep_ratio": False}
    # the recipe has none of them
    assert not {"EMAHook"} & {hook["type"] for hook in cfg.custom_hooks}
    assert "Mosaic" not in str(cfg.train_dataloader)


def test_what_the_recipe_does_without_can_be_switched_on():
    cfg = load_config("centernet_hardnet85_modern")
    assert "EMAHook" in {hook["type"] for hook in cfg.custom_hooks}
    assert cfg.optim_wrapper.clip_grad.max_norm > 0
    assert cfg.train_dataloader.dataset.pipeline[0].type == "Mosaic"
    assert "LoadBoxesAndMasks" not in str(cfg.train_dataloader)  # a mosaic's masks would be another image's
    recipe = load_config("centernet_hardnet85")
    assert cfg.train_dataloader.dataset.pipeline[1:] == recipe.train_dataloader.dataset.pipeline[2:]
    assert cfg.test_dataloader == recipe.test_dataloader


def test_every_config_names_its_architecture():
    assert all(load_config(name).arch in ARCHS for name in NAMES)


SEGMENTATION = [name for name in NAMES if isinstance(ARCHS[load_config(name).arch], SegmentationArch)]


CLASSIFICATION = [name for name in NAMES if isinstance(ARCHS[load_config(name).arch], HarDNetArch)]


DESCRIPTORS = [name for name in NAMES if isinstance(ARCHS[load_config(name).arch], DescriptorArch)]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in SEGMENTATION + CLASSIFICATION + DESCRIPTORS]
)
def test_config_fits_its_architecture(name):
    cfg = load_config(name)
    row = ARCHS[cfg.arch]
    model = cfg.model
    assert model.arch == cfg.arch
    if isinstance(row, SSDArch):
        for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
            (resize,) = [step for step in cfg[loader].dataset.pipeline if step["type"] == "Resize"]
            assert tuple(resize["scale"]) == (row.size, row.size)
    rule = PREPROCESS[cfg.arch]
    assert rule.channels == "bgr"
    assert not model.data_preprocessor.bgr_to_rgb
    assert tuple(model.data_preprocessor.mean) == rule.pixel_mean
    assert tuple(model.data_preprocessor.std) == rule.pixel_std
    dataset = cfg.train_dataloader.dataset
    classes = (dataset.get("dataset", dataset).get("metainfo") or {}).get("classes")
    assert class_counts(cfg) == {len(classes) if classes else 80}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_config_fits_its_architecture(name):
    cfg = load_config(name)
    assert cfg.model.arch == cfg.arch
    rule = PREPROCESS[cfg.arch]
    assert cfg.model.data_preprocessor.bgr_to_rgb == (rule.channels == "rgb")
    assert tuple(cfg.model.data_preprocessor.mean) == rule.pixel_mean
    assert tuple(cfg.model.data_preprocessor.std) == rule.pixel_std


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classification_config_fits_its_architecture(name):
    cfg = load_config(name)
    rule = PREPROCESS[cfg.arch]
    assert cfg.model.arch == cfg.arch
    assert rule.channels == "rgb"
    assert tuple(cfg.model.data_preprocessor.mean) == pytest.approx(rule.pixel_mean)
    assert tuple(cfg.model.data_preprocessor.std) == pytest.approx(rule.pixel_std)
    steps = {step.type: step for step in cfg.test_dataloader.dataset.pipeline}
    if name.endswith("_imagenet"):
        assert steps["torchvision/Resize"].size == rule.resize_to
        assert steps["torchvision/CenterCrop"].size == rule.size
    assert cfg.model.num_classes == (10 if "tiny" in name else 1000)


@pytest.mark.parametrize(
    "name", [f"{arch}_imagenet" for arch in ("hardnet39ds", "hardnet68ds", "hardnet68", "hardnet85")]
)
def test_published_classification_recipe(name):
    cfg = load_config(name)
    optimizer = {"type": "SGD", "lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 6e-5}
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 256
    assert 150 <= cfg.train_cfg.max_epochs <= 250
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.T_max) == ("CosineAnnealingLR", cfg.train_cfg.max_epochs)
    assert [step.type for step in cfg.train_dataloader.dataset.pipeline] == [
        "torchvision/RandomResizedCrop",
        "torchvision/RandomHorizontalFlip",
        "PackClass",
    ]
    assert cfg.train_dataloader.dataset.pipeline[0].size == 224
    assert "label_smoothing" not in cfg.model
    assert "EMAHook" not in {hook["type"] for hook in cfg.custom_hooks}


def test_modern_classification_recipe():
    cfg = load_config("hardnet68_imagenet_modern")
    assert cfg.optim_wrapper.optimizer.type == "AdamW"
    assert cfg.model.label_smoothing == 0.1
    assert cfg.model.data_preprocessor.mixup > 0
    assert cfg.model.data_preprocessor.cutmix > 0
    assert "torchvision/RandAugment" in str(cfg.train_dataloader)
    assert "EMAHook" in {hook["type"] for hook in cfg.custom_hooks}
    assert cfg.param_scheduler[0].type == "LinearLR"
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs


def test_the_recipe_is_one_line_of_a_config(tmp_path):
    text = (OWN_CONFIGS / "hardnet85_imagenet.py").read_text()
    text = text.replace("schedule_published.py", "schedule_modern.py").replace(
        '"_base_/', f'"{OWN_CONFIGS}/_base_/'
    )
    (tmp_path / "mine.py").write_text(text)
    mine, modern = load_config(tmp_path / "mine.py"), load_config("hardnet68_imagenet_modern")
    assert mine.arch == "hardnet85"
    for key in ("train_dataloader", "optim_wrapper", "param_scheduler", "train_cfg", "custom_hooks"):
        assert mine[key] == modern[key]
    assert {**mine.model, "arch": "hardnet68"} == modern.model
    assert [step.type for step in mine.train_dataloader.dataset.pipeline] == [
        "torchvision/RandomResizedCrop",
        "torchvision/RandomHorizontalFlip",
        "torchvision/RandAugment",
        "PackClass",
    ]


def test_how_a_configs_images_are_made():
    tiny = dict.fromkeys(("hardnet39ds_tiny_imagenet10", "hardnet39dsa_tiny_imagenet10"), (64, 64))
    own = tiny | {"centernet_hardnet85_608": (608, None)}
    own |= {"centernet_hardnet68_overfit8": (384, None), "hardnet39ds_tiny_imagenet10_128": (128, 128)}
    own |= {"centernet_hardnet39ds_bccd": ((288, 384), None)}
    own |= dict.fromkeys(
        (
            "fchardnet70_camvid_pretrained_trainval",
            "fchardnet70_camvid_towns",
            "fchardnet70_camvid_cities",
            "fchardnet70_camvid_cities_finetune",
        ),
        ((450, 600), None),
    )
    for name in NAMES:
        cfg = load_config(name)
        rule, usual = preprocess_of(cfg), PREPROCESS[cfg.arch]
        size, resize_to = own.get(name, (usual.size, usual.resize_to))
        assert (rule.size, rule.resize_to) == (size, resize_to), name
        assert rule.channels == usual.channels
        assert (rule.pixel_mean, rule.pixel_std) == (
            pytest.approx(usual.pixel_mean),
            pytest.approx(usual.pixel_std),
        )
    keep = preprocess_of(load_config("centernet_hardnet68"))
    assert (keep.resize, keep.pad) == ("keep", PREPROCESS["centernet_hardnet68"].pad)


@pytest.mark.parametrize("name", NAMES)
def test_how_a_configs_output_is_read(name):
    """As published, but that CenterNet's boxes end at the border."""
    cfg = load_config(name)
    usual = POSTPROCESS[cfg.arch]
    if isinstance(ARCHS[cfg.arch], CenterNetArch):
        usual = replace(usual, clip=True)
    assert postprocess_of(cfg) == usual


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("hardnet68_imagenet", 1000, "n01440764"),
        ("ssd512_hardnet68", 80, "person"),
        ("ssd320_hardnet39ds_bccd", 3, "RBC"),
        ("centernet_hardnet39ds_bccd", 3, "RBC"),
        ("fchardnet70_camvid", 11, "Sky"),
        ("fchardnet70_cityscapes", 19, "road"),
    ],
)
def test_the_names_of_a_configs_classes(name, count, first):
    names = class_names(load_config(name))
    assert (len(names), names[0]) == (count, first)
    assert class_names(load_config("hardnet39ds_tiny_imagenet10")) is None  # the folders say


def test_coco_has_its_classes():
    assert class_names(load_config("ssd512_hardnet68")) == COCO_CLASSES


@pytest.mark.parametrize("name", ["fchardnet70_camvid", "fchardnet70_camvid_finetune"])
def test_camvid_trains_on_train_and_chooses_by_val(name):
    cfg = load_config(name)
    prefixes = [cfg[f"{split}_dataloader"].dataset.data_prefix for split in ("train", "val", "test")]
    assert [prefix.img_path for prefix in prefixes] == ["train", "val", "test"]
    assert [prefix.seg_map_path[-8:] for prefix in prefixes] == ["ainannot", "valannot", "estannot"]
    assert "EMAHook" in {hook["type"] for hook in cfg.custom_hooks}
    assert cfg.default_hooks.checkpoint.save_best == "mIoU"


@pytest.mark.parametrize(("name", "batches"), [("", 90_000), ("_180k", 180_000), ("_jitter", 90_000)])
def test_published_segmentation_recipe(name, batches):
    cfg = load_config(f"fchardnet70_cityscapes{name}")
    optimizer = {"type": "SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.train_dataloader.batch_size == cfg.auto_scale_lr.base_batch_size == 16
    images = 2975
    assert 0 <= cfg.train_cfg.max_epochs * (images // 16) - batches < 185
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.power, schedule.end) == ("PolyLR", 0.9, cfg.train_cfg.max_epochs)
    assert schedule.by_epoch  # another batch size keeps the shape
    assert schedule.convert_to_iter_based
    loss = cfg.model.decode_head.loss_decode
    assert (loss.min_kept, loss.threshold) == (4096, 0.3)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps["RandomResize"].scale == (2048, 1024)
    assert tuple(steps["RandomResize"].ratio_range) == (0.5, 2.0)
    assert steps["mmseg.RandomCrop"].crop_size == (1024, 1024)
    assert steps["RandomFlip"].prob == 0.5
    assert ("mmseg.PhotoMetricDistortion" in steps) == (name == "_jitter")
    assert cfg.model.init_cfg == {"type": "HarDNetPretrained", "tag": "base"}


@pytest.mark.parametrize("name", ["hardnet_descriptor_liberty", "hardnet_descriptor_all"])
def test_published_descriptor_recipe(name):
    cfg = load_config(name)
    optimizer = {"type": "SGD", "lr": 10.0, "momentum": 0.9, "dampening": 0.9, "weight_decay": 1e-4}
    assert cfg.optim_wrapper.optimizer == optimizer
    assert cfg.train_dataloader.batch_size == 1024
    assert cfg.train_cfg.max_epochs == 10
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.power, schedule.eta_min, schedule.end) == ("PolyLR", 1.0, 0.0, 10)
    assert schedule.by_epoch
    assert schedule.convert_to_iter_based
    assert cfg.train_dataloader.batch_sampler.pairs == 5_000_000
    assert cfg.model == {
        "type": "PatchDescriptorModel",
        "arch": "hardnet_descriptor",
        "anchor_swap": True,
        "margin": 1.0,
        "batch_reduce": "min",
        "loss_type": "triplet_margin",
        "orthogonality": 0.0,
    }
    assert cfg.train_dataloader.dataset.flips
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.save_best, checkpoint.rule) == ("fpr95", "less")
    assert cfg.test_dataloader == cfg.val_dataloader


@pytest.mark.parametrize(
    ("name", "training", "scored"),
    [
        ("liberty", ["liberty"], ["notredame", "yosemite"]),
        ("all", ["liberty", "notredame", "yosemite"], ["liberty", "notredame", "yosemite"]),
        ("homography", ["train"], ["val"]),
    ],
)
def test_the_sets_of_a_descriptors_config(name, training, scored):
    cfg = load_config(f"hardnet_descriptor_{name}")
    folders = [next(parts(cfg, [f"{split}_dataloader"])).folders for split in ("train", "val", "test")]
    root = Path(cfg.data_root)
    assert folders == [tuple(root / set_name for set_name in sets) for sets in (training, scored, scored)]


OF_THE_TABLE = ("in_channels", "out_indices", "tap", "channels", "priors", "anchor_generator", "in_index")


def typed_by_hand(text: str) -> list[str]:
    """Keywords and dict keys of a config that the architecture table decides, and second names of it."""
    typed = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            keys = [keyword.arg for keyword in node.keywords if not _is_of_the_table(keyword.value)]
        elif isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        else:
            continue
        typed += [key for key in keys if key in OF_THE_TABLE]
    names = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    named = [name for name in names if name in ARCHS]
    return typed + named[1:]


@pytest.mark.parametrize("path", sorted(OWN_CONFIGS.rglob("*.py")), ids=lambda path: path.stem)
def test_a_config_names_its_architecture_once_and_nothing_that_follows_from_it(path):
    assert typed_by_hand(path.read_text(encoding="utf-8")) == []


def _is_of_the_table(value: ast.expr) -> bool:
    """Whether a value is ``feature_channels(…)``."""
    return isinstance(value, ast.Call) and getattr(value.func, "id", "") == "feature_channels"


def test_that_search_can_find_something():
    text = (
        'arch = "hardnet68"\nmodel = dict(neck=dict(in_channels=[1]), init_cfg={"tap": 1, "m": "hardnet68"})'
    )
    assert typed_by_hand(text) == ["in_channels", "tap", "hardnet68"]


@pytest.mark.parametrize("name", NAMES)
def test_every_config_builds_its_network(name):
    cfg = load_config(name)
    cfg.model.init_cfg = None
    with torch.device("meta"):
        network = build_network(cfg.arch, num_classes=next(iter(class_counts(cfg)), None))
    model = MODELS.build(cfg.model)
    sizes = sorted(tuple(parameter.shape) for parameter in model.parameters())
    assert sizes == sorted(tuple(parameter.shape) for parameter in network.parameters())


@pytest.mark.parametrize("name", OTHERS)
def test_a_backbones_config_builds_its_model_on_the_published_trunk(name):
    cfg = load_config(name)
    assert cfg.get("arch") is None
    assert cfg.model.backbone == {"type": "HarDNet", "arch": "hardnet68", "pretrained": True}
    rule = PREPROCESS["hardnet68"]
    given = cfg.model.data_preprocessor
    assert given.bgr_to_rgb == (rule.channels == "rgb")
    assert tuple(given.mean) == pytest.approx(rule.pixel_mean)
    assert tuple(given.std) == pytest.approx(rule.pixel_std)
    assert cfg.auto_scale_lr == {"enable": True, "base_batch_size": cfg.train_dataloader.batch_size}
    assert cfg.train_cfg.type == "ResumableEpochLoop"
    part = next(parts(cfg, ["train_dataloader"]))
    assert part.evaluator == cfg.val_evaluator.type == cfg.test_evaluator.type
    assert wrong_counts(cfg, part) == []
    drop_pretrained(cfg)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    published = {
        key: tuple(value.shape) for key, value in build_network("hardnet68").trunk.state_dict().items()
    }
    built = {key: tuple(value.shape) for key, value in model.backbone.trunk.state_dict().items()}
    assert {key: built.get(key) for key in built} == {key: published.get(key) for key in built}
    assert model.backbone.out_strides == [4, 8, 16, 32]


@pytest.mark.parametrize("name", ALL)
def test_the_copy_that_a_run_keeps_loads_again(name, tmp_path):
    cfg = load_config(name)
    copy = tmp_path / "copy.py"
    copy.write_text(without_unread(cfg).pretty_text)
    assert load_config(copy).to_dict() == without_unread(cfg).to_dict()


def test_configs_are_flat_with_one_level_of_bases():
    assert {path.parent.name for path in OWN_CONFIGS.rglob("*.py")} == {"configs", "_base_"}
    assert Path(load_config("ssd512_hardnet68").filename).parent == OWN_CONFIGS


def test_the_petite_encoder_is_pretrained_as_its_authors_say():
    """FCHarDNet #36: the first 100 of 150 epochs with cosine decay."""
    cfg = load_config("hardnet_petite_imagenet")
    (schedule,) = cfg.param_scheduler
    assert (cfg.train_cfg.max_epochs, schedule.type, schedule.T_max) == (100, "CosineAnnealingLR", 150)
    assert ARCHS["hardnet_petite"] == ARCHS["fchardnet70"].trunk


@pytest.mark.parametrize("size", [68, 76, 84])
def test_the_papers_camvid_networks_have_a_config(size):
    cfg = load_config(f"fchardnet{size}_camvid")
    assert cfg.arch == cfg.model.arch == f"fchardnet{size}"
    assert cfg.weights_tag is None
    assert class_counts(cfg) == {11}
