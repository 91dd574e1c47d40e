"""Training recipes: the text of a config for a model and a data set, its sizes and schedule as planned."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardnet_suite.networks import ARCHS, PREPROCESS, SSDArch

_WARM_UP = 200  # iterations
_EPOCHS = (10, 150)  # fewest and most, where they are chosen


@dataclass(frozen=True)
class Start:
    """The weights to begin with.

    Attributes:
        load_from: path of a whole network's; None: none.
        tag: of a trunk's in the registry, which the model loads itself; None: none.
    """

    load_from: str | None = None
    tag: str | None = None

    @property
    def is_trained(self) -> bool:
        return self.load_from is not None or self.tag is not None

    @property
    def init_cfg(self) -> str:
        return "None" if self.tag is None else f'dict(type="HarDNetPretrained", tag="{self.tag}")'


@dataclass(frozen=True)
class Plan:
    """What is chosen from the data.

    Attributes:
        model: a name of ``list_models()``.
        classes: the names, in the order of the labels.
        images: number of training images.
        size: (height, width) of the input in training, in pixels.
        batch_size: images of one iteration, on each rank.
        epochs: how often every image is seen.
        workers: processes that load images.
        start: the weights to begin with.
        drop_last: whether an epoch ends with the last full batch.
        ranks: processes that share the images of an epoch.
    """

    model: str
    classes: tuple[str, ...]
    images: int
    size: tuple[int, int]
    batch_size: int
    epochs: int
    workers: int
    start: Start = field(default_factory=Start)
    drop_last: bool = False
    ranks: int = 1

    @property
    def iterations(self) -> int:
        """Of one epoch."""
        if self.drop_last:
            return self.images // (self.batch_size * self.ranks)
        return math.ceil(math.ceil(self.images / self.ranks) / self.batch_size)

    @property
    def warm_up(self) -> int:
        """Iterations with a growing learning rate; a single one would not grow."""
        count = min(_WARM_UP, self.iterations * self.epochs // 10)
        return count if count > 1 else 0

    @property
    def val_interval(self) -> int:
        return max(1, self.epochs // 15)

    @property
    def lr(self) -> float:
        return 5e-4 if self.start.is_trained else 1e-3


def choose_batch_size(images: int, *, on_gpu: int, on_cpu: int, gpu: bool) -> int:
    """A batch size that leaves several iterations per epoch.

    Args:
        images: number of training images.
        on_gpu: the most on a GPU.
        on_cpu: the most on a CPU.
        gpu: whether there is one.
    """
    return max(min(images, 2), min(on_gpu if gpu else on_cpu, images // 8))


def choose_epochs(images: int, batch_size: int, iterations: int) -> int:
    """The epochs that have about so many iterations, 10 to 150."""
    fewest, most = _EPOCHS
    return min(most, max(fewest, round(iterations * batch_size / images)))


def choose_workers() -> int:
    """Processes that load images, one per two cores, 1 to 8."""
    return min(8, max(1, (os.cpu_count() or 1) // 2))


def detection(plan: Plan, data_root: Path, files: Mapping[str, Path]) -> str:
    """A config for an SSD, RFB Net or CenterNet.

    Args:
        plan: what was chosen.
        data_root: folder that the images' names are relative to.
        files: split -> COCO annotations; "train", "val", and "test" if there is one.
    """
    is_ssd = isinstance(ARCHS[plan.model], SSDArch)
    base = "ssd512_hardnet68.py" if is_ssd else "centernet_hardnet85.py"
    height, width = plan.size
    test = files.get("test", files["val"])
    mean = "_base_.mean" if is_ssd else "_base_.model.data_preprocessor.mean"
    return f'''_base_ = "{base}"

arch = "{plan.model}"
classes = {plan.classes!r}
default_scope = "mmdet"  # of OpenMMLab's registries
data_root = {_folder(data_root)}  # of the images; --data-root moves it

model = dict(arch=arch, bbox_head=dict(num_classes=len(classes)), init_cfg={plan.start.init_cfg})
load_from = {plan.start.load_from!r}  # weights to begin with

# Images are flipped left to right; a microscope slide may be flipped in all directions.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PhotoMetricDistortion", hue_delta=9),
    dict(type="Expand", mean={mean}, to_rgb=False, ratio_range=(1, 2), prob=0.3),
    dict(type="MinIoURandomCrop", min_ious=(0.3, 0.5, 0.7, 0.9), min_crop_size=0.4),
    dict(type="Resize", scale=({width}, {height}), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=({width}, {height}), keep_ratio=False),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
shared = dict(data_root=data_root, metainfo=dict(classes=classes), data_prefix=dict(img=""))
train_dataloader = dict(
    batch_size={plan.batch_size},
    num_workers={plan.workers},
    drop_last={plan.drop_last},
    dataset=dict(
        pipeline=train_pipeline,
        ann_file={str(files["train"])!r},
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        **shared,
    ),
)
val_dataloader = dict(
    batch_size={plan.batch_size},
    num_workers={plan.workers},
    dataset=dict(pipeline=test_pipeline, ann_file={str(files["val"])!r}, **shared),
)
test_dataloader = dict(
    batch_size={plan.batch_size},
    num_workers={plan.workers},
    dataset=dict(pipeline=test_pipeline, ann_file={str(test)!r}, **shared),
)
val_evaluator = dict(ann_file={str(files["val"])!r})
test_evaluator = dict(ann_file={str(test)!r})

{_schedule(plan, "coco/bbox_mAP", '"ExpMomentumEMA", momentum=0.001, gamma=200')}'''


def segmentation(
    plan: Plan,
    data_root: Path,
    folders: Mapping[str, tuple[str, str]],
    lists: Mapping[str, Path],
    *,
    dataset: Mapping[str, Any],
    image_size: tuple[int, int],
) -> str:
    """A config for an FC-HarDNet or HarDNet-MSEG.

    Args:
        plan: what was chosen; its size is the crop.
        data_root: folder that ``folders`` are relative to.
        folders: split -> (images, label images); "train", "val", and "test" if there is one.
        lists: split -> file that lists its images; a split without one has all.
        dataset: options of the data sets, such as ``labels``.
        image_size: (height, width) of a usual image.
    """
    splits = {name: name if name in folders else "val" for name in ("train", "val", "test")}
    entries = {}
    for name, split in splits.items():
        images, labels = folders[split]
        listed = f"ann_file={str(lists[split])!r}, " if split in lists else ""
        pipeline = "train_pipeline" if name == "train" else "_base_.test_pipeline"
        entries[name] = (
            f"dict({listed}data_prefix=dict(img_path={images!r}, seg_map_path={labels!r}), "
            f"pipeline={pipeline}, **shared)"
        )
    height, width = plan.size
    min_kept = max(1, height * width // 7)
    return f'''_base_ = "fchardnet70_camvid.py"

arch = "{plan.model}"
weights_tag = None
default_scope = "mmseg"  # of OpenMMLab's registries
data_root = {_folder(data_root)}  # of the images; --data-root moves it

model = dict(
    arch=arch,
    data_preprocessor=dict(size=({height}, {width}){_normalisation(plan.model)}),
    decode_head=dict(num_classes={len(plan.classes)}, loss_decode=dict(min_kept={min_kept})),
    init_cfg={plan.start.init_cfg},
)
load_from = {plan.start.load_from!r}  # weights to begin with

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabels"),
    dict(type="RandomResize", scale={image_size[::-1]}, ratio_range=(0.6, 2.0), keep_ratio=True),
    dict(type="mmseg.RandomCrop", crop_size=({height}, {width}), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="mmseg.PhotoMetricDistortion", hue_delta=9),
    dict(type="mmseg.PackSegInputs"),
]
shared = dict(data_root=data_root, {_arguments(dataset)})
train_dataloader = dict(
    batch_size={plan.batch_size},
    num_workers={plan.workers},
    drop_last={plan.drop_last},
    dataset={entries["train"]},
)
val_dataloader = dict(num_workers={plan.workers}, dataset={entries["val"]})
test_dataloader = dict(num_workers={plan.workers}, dataset={entries["test"]})

{_schedule(plan, "mIoU", '"MomentumAnnealingEMA", momentum=0.001, gamma=100', hooks="custom_hooks[:-1]")}'''


def _normalisation(model: str) -> str:
    """Options of the data preprocessor for a model whose input is not that of the base config."""
    rule, usual = (PREPROCESS[name] for name in (model, "fchardnet70"))
    if not {"channels", "mean", "std"} & {*rule.differences(usual)}:
        return ""
    mean, std = list(rule.pixel_mean), list(rule.pixel_std)
    return f", mean={mean}, std={std}, bgr_to_rgb={rule.channels == 'rgb'}"


def classification(
    plan: Plan, data_root: Path, folders: Mapping[str, str], lists: Mapping[str, Path], *, enlarged: int
) -> str:
    """A config for a classifier.

    Args:
        plan: what was chosen.
        data_root: folder that ``folders`` are relative to.
        folders: split -> folder of the classes' folders; "train", "val", and "test" if there is one.
        lists: split -> CSV list of its images; a split without one has all of its folder.
        enlarged: shorter side of an image before its centre is cut out in testing, in pixels.
    """
    size = plan.size[0]
    entries = {
        split: (f"csv={str(lists[split])!r}, " if split in lists else "") + f"folder={folder!r}"
        for split, folder in folders.items()
    }
    train, val, test = entries["train"], entries["val"], entries.get("test", entries["val"])
    counts = f"num_classes={len(plan.classes)}"
    return f'''_base_ = ["_base_/runtime.py", "_base_/classifier.py", "_base_/schedule_modern.py"]

arch = "{plan.model}"
classes = {plan.classes!r}
default_scope = "mmengine"  # of OpenMMLab's registries
data_root = {_folder(data_root)}  # of the images; --data-root moves it
model = dict(
    arch=arch,
    {counts},
    label_smoothing=0.1,
    data_preprocessor=dict({counts}, mixup=0.2, cutmix=1.0, mix_probability=0.5),
)
load_from = {plan.start.load_from!r}  # weights to begin with

train_pipeline = [
    dict(type="torchvision/RandomResizedCrop", size={size}, scale=(0.3, 1.0)),
    dict(type="torchvision/RandomHorizontalFlip"),
    dict(type="torchvision/RandAugment", num_ops=2, magnitude=9),
    dict(type="PackClass"),
]
test_pipeline = [
    dict(type="torchvision/Resize", size={enlarged}),
    dict(type="torchvision/CenterCrop", size={size}),
    dict(type="PackClass"),
]
loading = dict(
    num_workers={plan.workers}, persistent_workers=True, collate_fn=dict(type="default_collate")
)
shared = dict(type="ClassificationDataset", data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size={plan.batch_size},
    drop_last={plan.drop_last},
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict({train}, pipeline=train_pipeline, **shared),
    **loading,
)
val_dataloader = dict(
    batch_size={plan.batch_size},
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict({val}, pipeline=test_pipeline, **shared),
    **loading,
)
test_dataloader = dict(
    batch_size={plan.batch_size},
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict({test}, pipeline=test_pipeline, **shared),
    **loading,
)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
val_evaluator = dict(type="ImageClassification")
test_evaluator = val_evaluator

{_schedule(plan, "top1", '"MomentumAnnealingEMA", momentum=0.002, gamma=100, update_buffers=True')}'''


def _schedule(plan: Plan, score: str, average: str, *, hooks: str = "custom_hooks") -> str:
    """Epochs, optimizer, learning rate and hooks.

    Args:
        plan: what was chosen.
        score: the metric that selects the best checkpoint.
        average: type and options of the averaged weights.
        hooks: the custom hooks of the base config that stay: all but its own averaged weights.
    """
    total = plan.iterations * plan.epochs
    warm_up, decay = plan.warm_up, total - plan.warm_up
    iterations = f"by_epoch=False, begin={warm_up}, end={total}, T_max={decay}"
    schedules = [f'dict(type="CosineAnnealingLR", eta_min=1e-5, {iterations})']
    if warm_up:
        schedules.insert(
            0, f'dict(type="LinearLR", start_factor=0.02, by_epoch=False, begin=0, end={warm_up})'
        )
    interval = max(1, min(50, plan.iterations // 2))
    return f'''# AdamW with warm-up and cosine, in iterations: {plan.iterations} per epoch.
# The averaged weights are validated and saved.
train_cfg = dict(type="ResumableEpochLoop", max_epochs={plan.epochs}, val_interval={plan.val_interval})
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr={plan.lr}, weight_decay=0.02),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [{", ".join(schedules)}]
auto_scale_lr = dict(enable=False, base_batch_size={plan.batch_size})
default_hooks = dict(
    logger=dict(interval={interval}),
    checkpoint=dict(interval={plan.val_interval}, save_best="{score}", rule="greater"),
)
custom_hooks = [
    *_base_.{hooks},
    dict(type="EMAHook", ema_type={average}),
]
'''


def _folder(path: Path) -> str:
    return repr(f"{str(path).rstrip('/')}/")


def _arguments(options: Mapping[str, Any] | Sequence) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in dict(options).items())
