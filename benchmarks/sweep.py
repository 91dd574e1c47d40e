"""HarDNet as the backbone of every model of mmdet's and mmseg's config trees: build, train a step, predict.

    python benchmarks/sweep.py --json sweep.json --markdown sweep.md
    python benchmarks/sweep.py mmdet/dyhead mmseg/psanet --arch hardnet68

Of each folder of configs it takes the first, ResNet-50's where there is one, and one for each further kind of
model (the classes that it is made of). The config's own backbone is built and run once, which tells the
strides and channels of its maps; HarDNet takes its place with maps of these strides, and whatever reads them
gets their channels. The model is then built, trains one step on drawn boxes, masks and label images (finite
losses, a gradient in every parameter of the trunk, unless the config's own backbone has some without, too),
and predicts. "works" means all of that; other answers name the exception, or why the model has no place for
another backbone. Weights are random and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import atexit
import copy
import json
import logging
import math
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hardnet_suite.networks import build_network
from hardnet_suite.openmm.compat import repair_ssd_heads
from hardnet_suite.outputs import write_file

DETECTION_SIZE, SEGMENTATION_SIZE = (160, 192), (128, 128)
MOST_CLASSES = 1203  # LVIS has as many; V3Det's 13,204 take more memory and time than a step is worth
LARGER = {"mobilenet_v3": (800, 800)}  # its pooling takes 49 × 49 places of stride 16
WORKS, FAILS, NO_PLACE = "works", "fails", "no place for a backbone"
NOT_HERE = "fails with its own backbone, too"
# what of a family is made for its own backbone, or needs more than a backbone
REASONS = {
    "mmdet/detectors": "DetectoRS: a recursive pyramid that feeds maps back into its own ResNet",
    "mmdet/tridentnet": "TridentNet: the branches are in its own ResNet, and its head expects them",
    "mmdet/misc": "models of Detectron2 in a wrapper",
    "mmseg/san": "downloads CLIP, which is its backbone",
    "mmseg/vpd": "downloads Stable Diffusion, which is its backbone",
}
# backbones that are the model: their heads read streams that no other backbone has
OWN_STREAMS = (
    "BiSeNetV1",
    "BiSeNetV2",
    "ICNet",
    "PIDNet",
    "DDRNet",
    "FastSCNN",
    "CGNet",
    "ERFNet",
    "STDCContextPathNet",
)
TOKENS = ("BEiT", "MAE")  # one scale, which their decoders are made for
UNTRAINED = "parameters of the trunk without gradient"
READS = ("in_channels", "c1_in_channels", "c2_in_channels")
WORDS = ("person", "dog", "car")  # classes of models that read text
# of SoftTeacher: an untrained teacher is sure of nothing
ALL_PSEUDO_LABELS = {
    "pseudo_label_initial_score_thr": 0.0,
    "rpn_pseudo_thr": 0.0,
    "cls_pseudo_thr": 0.0,
    "reg_pseudo_thr": 1e6,
}
PASSED_ON = {
    "JPU": "auxiliary_head",
    "GlobalAveragePooling": "head",
}  # reads maps that a neck does not change
BEHIND = ("kernel_update_head",)  # reads what other layers of its head make


class NoPlaceError(Exception):
    """The model has no place for another backbone."""


class NotHereError(Exception):
    """The model does not work with its own backbone either."""


@dataclass(frozen=True)
class Row:
    """What became of a model.

    Attributes:
        family: package and folder, such as "mmdet/atss".
        config: name of the file.
        model: class of the model.
        backbone: class of the config's own backbone.
        answer: one of the four.
        detail: losses and gradients, or the error.
        seconds: of all of it.
    """

    family: str
    config: str
    model: str
    backbone: str
    answer: str
    detail: str
    seconds: float


# --- which configs


def config_root(package: str) -> Path:
    return Path(__import__(package).__file__).parent / ".mim" / "configs"


def families(patterns: Iterable[str] = ()) -> list[str]:
    """Folders of configs of both packages, such as "mmdet/atss"; of all, or of those that a pattern fits."""
    names = [
        f"{package}/{folder.name}"
        for package in ("mmdet", "mmseg")
        for folder in sorted(config_root(package).iterdir())
        if folder.is_dir() and folder.name != "_base_"
    ]
    chosen = [name for name in names if not patterns or any(Path(name).match(each) for each in patterns)]
    if not chosen:
        raise SystemExit(f"no family fits {', '.join(patterns)}: there are {', '.join(names)}")
    return chosen


def kinds_of(family: str) -> list[tuple[Path, frozenset[str], str]]:
    """One config per kind of model of a family, ResNet-50's first.

    Returns:
        Their paths, the classes that they are made of, and why they cannot be read, where none can.
    """
    package, folder = family.split("/")
    paths = (config_root(package) / folder).glob("*.py")
    kinds: dict[frozenset[str], Path] = {}
    errors = []
    for path in sorted(paths, key=lambda path: ("r50" not in path.name, len(path.name), path.name)):
        try:
            kind = frozenset(classes_in(model_of(path)))
        except (ImportError, OSError) as error:
            errors.append((path, frozenset(), brief(error)))
            continue
        if kind:
            kinds.setdefault(kind, path)
    return [(path, kind, "") for kind, path in kinds.items()] or errors[:1]


def model_of(path: Path) -> Any:
    from mmengine.config import Config

    return Config.fromfile(path).get("model") or {}


def planned(
    kinds: Mapping[str, list[tuple[Path, frozenset[str], str]]],
) -> list[tuple[str, Path, str]]:
    """Each family's first config, and what no other one is like: family, path, and why it cannot be read."""
    seen = {found[0][1] for found in kinds.values() if found}
    plan = []
    for family, found in kinds.items():
        for number, (path, kind, error) in enumerate(found):
            if number == 0 or kind not in seen:
                plan.append((family, path, error))
                seen.add(kind)
    return plan


def classes_in(node: Any) -> Iterator[str]:
    """Names of the classes in a config, but for those of the backbone and of the input."""
    if isinstance(node, Mapping):
        if "type" in node:
            yield str(node["type"])
        for key, value in node.items():
            if key not in ("backbone", "data_preprocessor"):
                yield from classes_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from classes_in(value)


# --- the swap


def swap_backbone(model: Any, registry: Any, arch: str | None) -> str:
    """Puts HarDNet in the place of a model's backbone, in the config; the class of the former one.

    Args:
        model: the config, changed in place.
        registry: that builds the backbone.
        arch: of the HarDNet; None leaves the backbone.

    Raises:
        NoPlaceError: its maps are none that a pyramid of strides 2 to 32 has.
        NotHereError: it cannot be built.
    """
    own = model["backbone"]
    name = str(own["type"]).rpartition(".")[2]
    if arch is None:
        return name
    if name in OWN_STREAMS:
        raise NoPlaceError(f"{name} is the model: its head reads streams that only it has")
    if name in TOKENS:
        raise NoPlaceError(f"{name}: tokens of one scale, for which the decoder is made")
    maps = maps_of(own, registry)
    levels, output_stride = levels_for([stride for _, stride in maps])
    network = build_network(arch, features_only=True)
    available = network.feature_info.channels()
    new = [available[level] for level in levels]
    options = {} if output_stride == 32 else {"output_stride": output_stride}
    if "in_channels" in own and own["in_channels"] != 3:
        options["in_channels"] = own["in_channels"]
    # a backbone returns its maps by rising index
    model["backbone"] = type(own)(type="HarDNet", arch=arch, out_indices=tuple(levels), **options)
    connect(model, [channels for channels, _ in maps], new)
    return name


def maps_of(backbone: Any, registry: Any) -> list[tuple[int, int]]:
    """Channels and stride of each map that a backbone of a config returns."""
    backbone = copy.deepcopy(backbone)
    for key in ("init_cfg", "pretrained"):
        backbone.pop(key, None)
    try:
        network = registry.build(backbone)
        network.eval()  # not all return themselves
    except Exception as error:
        raise NotHereError(f"{backbone['type']}: {brief(error)}") from error
    height, width = 128, 256
    try:
        with torch.no_grad():
            maps = network(torch.zeros(1, backbone.get("in_channels", 3), height, width))
    except Exception as error:
        raise NoPlaceError(
            f"{backbone['type']} takes no images of {height}×{width}: {brief(error)}"
        ) from error
    maps = list(maps) if isinstance(maps, list | tuple) else [maps]
    if not all(isinstance(each, torch.Tensor) and each.ndim == 4 for each in maps):
        raise NoPlaceError(f"{backbone['type']} returns more than maps of images")
    return [(each.shape[1], round(height / each.shape[2])) for each in maps]


def levels_for(strides: list[int]) -> tuple[list[int], int]:
    """HarDNet's maps (0 is stride 2) in the place of maps of these strides, and its output stride.

    The maps of a dilated network, of strides such as 4, 8, 8 and 8, are the next ones, dilated to 8.
    """
    levels: list[int] = []
    for stride in strides:
        level = math.log2(stride) - 1
        if level != int(level) or not 0 <= level <= 4:
            raise NoPlaceError(f"a map of stride {stride}: HarDNet's have 2, 4, 8, 16 and 32")
        natural = int(level)
        levels.append(natural if not levels or natural > levels[-1] else levels[-1] + 1)
    if levels[-1] > 4 or sorted(levels) != levels:
        raise NoPlaceError(f"maps of the strides {', '.join(map(str, strides))}: no pyramid")
    is_dilated = len({*strides}) < len(strides)
    return levels, max(strides) if is_dilated else 32


def connect(model: Any, old: list[int], new: list[int]) -> None:
    """Gives new channels to what reads a backbone's maps: the first neck, or the heads without one."""
    neck = model.get("neck")
    first = neck[0] if isinstance(neck, list) else neck
    if model.get("roi_head", {}).get("shared_head"):  # layers of a ResNet, of fixed widths: C4
        model["neck"] = {
            "type": "ChannelMapper",
            "in_channels": new,
            "kernel_size": 1,
            "out_channels": old[-1],
            "num_outs": len(new),
        }
        return
    if first is None:
        heads = [value for key, value in model.items() if key != "backbone"]
        for head in heads:
            replace_channels(head, old, new)
        return
    if str(first["type"]) == "SSDNeck":  # passes the first maps through
        rest = list(first["out_channels"])[len(old) :]
        first["in_channels"], first["out_channels"] = tuple(new), (*new, *rest)
        model["bbox_head"]["in_channels"] = (*new, *rest)
        return
    replace_channels(first, old, new)
    replace_channels(model.get(PASSED_ON.get(str(first["type"]))), old, new)


def replace_channels(node: Any, old: list[int], new: list[int]) -> None:
    by_number = dict(zip(old, new, strict=True))
    if isinstance(node, Mapping):
        if node.get("num_convs") == 0 and node.get("channels") == node.get("in_channels") in by_number:
            node["channels"] = by_number[node["channels"]]  # nothing in between
        for key, value in node.items():
            if key not in READS:
                if key not in BEHIND:
                    replace_channels(value, old, new)
            elif isinstance(value, list | tuple) and list(value) == old:
                node[key] = type(value)(new)
            elif isinstance(value, list | tuple) and all(each in by_number for each in value):
                node[key] = type(value)(by_number[each] for each in value)
            elif value in by_number:
                node[key] = by_number[value]
    elif isinstance(node, list | tuple):
        for value in node:
            replace_channels(value, old, new)


def made_for_one_process(node: Any) -> None:
    """Plain batch norms, no weights to download, not too many classes, nothing to save memory, in place."""
    if isinstance(node, Mapping):
        if isinstance(node.get("num_classes"), int):
            node["num_classes"] = min(node["num_classes"], MOST_CLASSES)
        if "num_cp" in node:  # recomputes layers, by fairscale, which has no wheels
            node["num_cp"] = 0
        if node.get("type") in ("SyncBN", "MMSyncBN"):
            node["type"] = "BN"
        for key in ("init_cfg", "pretrained", "checkpoint"):
            if isinstance(node.get(key), str) or (
                isinstance(node.get(key), Mapping) and node[key].get("type") == "Pretrained"
            ):
                node[key] = None
        for value in node.values():
            made_for_one_process(value)
    elif isinstance(node, list | tuple):
        for value in node:
            made_for_one_process(value)


# --- a step and a prediction


def run_detector(model: Any, path: Path, arch: str | None) -> tuple[str, str]:
    """Trains and predicts: the class of the config's own backbone, and what was seen."""
    from mmdet.registry import MODELS

    made_for_one_process(model)
    model.pop("teacher_ckpt", None)
    if isinstance(model.get("teacher_config"), str):
        teacher = Path(model["teacher_config"])
        model["teacher_config"] = str(config_root("mmdet") / Path(*teacher.parts[1:]))
    parts = parts_with_backbones(model)
    inner = parts[0]
    if "backbone" not in inner:
        raise NoPlaceError("no backbone")
    if str(inner["backbone"]["type"]) == "HourglassNet":  # one map per stack
        inner["backbone"]["num_stacks"] = inner["bbox_head"]["num_feat_levels"] = 1
    own, *_ = [swap_backbone(part, MODELS, arch) for part in parts]
    name = str(model["type"])
    if "language_model" in model:
        model["language_model"]["name"] = drawn_language_model()
        if "lang_model_name" in model["bbox_head"]:
            model["bbox_head"]["lang_model_name"] = drawn_language_model()
    is_tracker = "tracker" in model and name not in ("QDTrack", "MaskTrackRCNN")
    if is_tracker:
        follow_all_boxes(model)
        inner.setdefault("data_preprocessor", {"type": "DetDataPreprocessor", "pad_size_divisor": 32})
    elif name == "SoftTeacher":
        model["semi_train_cfg"].update(ALL_PSEUDO_LABELS)
    for augment in model.get("data_preprocessor", {}).get("batch_augments") or ():
        if "size" in augment:  # pads to the size of COCO's images
            augment["size"] = DETECTION_SIZE
    network = build(model, MODELS)
    repair_ssd_heads(network)
    detector = network.detector if hasattr(network, "detector") else network
    if is_tracker:
        trained = network if model["data_preprocessor"].get("use_det_processor") else detector
        seen = step_on_tracker(network, trained, model)
    elif name == "BaseReID":
        seen = step_on_people(network)
    elif name == "SoftTeacher":
        seen = step_on_two_branches(network, model)
    elif "tracker" in model or path.parent.name.endswith("_vis"):
        seen = step_on_videos(network, detector)
    else:
        size = DETECTION_SIZE
        if "SSDNeck" in classes_in(model):  # halves the map to one pixel
            size = (320, 320)
        elif max([0, *numbers_of(model, "num_queries")]) > 600:  # as many places to choose them from
            size = (224, 256)
        seen = step_on_images(network, detector, model, size)
    return own, seen


def parts_with_backbones(model: Any) -> list[Any]:
    """The parts of a config that have backbones: of trackers and SoftTeacher, their detector first."""
    return [model[key] for key in ("detector", "reid") if isinstance(model.get(key), Mapping)] or [model]


def build(model: Any, registry: Any) -> Any:
    from mmengine.logging import MessageHub

    torch.manual_seed(0)
    network = registry.build(model)
    network.init_weights()
    hub = MessageHub.get_current_instance()
    for key, value in {"iter": 1, "epoch": 0, "max_iters": 100, "max_epochs": 10}.items():
        hub.update_info(key, value)
    for module in network.modules():
        if hasattr(module, "epoch"):
            module.epoch = 0
    return network


def step_on_images(network: Any, detector: Any, model: Any, size: tuple[int, int]) -> str:
    data = drawn_images(model, size, 2)
    if type(network).__name__ == "FastRCNN":
        add_proposals(data)
    seen = train_step(network, detector, data)
    network.eval()
    data = drawn_images(model, size, 1)
    if type(network).__name__ == "FastRCNN":
        add_proposals(data)
    with torch.no_grad():
        (prediction,) = network.test_step(data)
    return f"{seen}, {answers(prediction)}"


def drawn_images(model: Any, size: tuple[int, int], count: int) -> dict[str, Any]:
    """Images with what a model trains on, as mmdet's pipelines give them: one or two."""
    from mmdet.testing import demo_mm_inputs

    words = json.dumps(model, default=str).lower()
    with_mask = any(each in words for each in ("mask", "solo", "condinst", "yolact", "queryinst", "boxinst"))
    with_semantic = "semantic" in words or "panoptic" in words or "seg_head" in words
    classes = min([3, *numbers_of(model, "num_classes")])
    data = demo_mm_inputs(
        count,
        [[3, *size]] * count,
        num_items=[3, 2][:count],
        num_classes=max(classes, 2),
        with_mask=with_mask,
        with_semantic=with_semantic,
    )
    for sample in data["data_samples"]:
        sample.gt_instances.labels.clamp_(max=classes - 1)
        if "language_model" in model:
            sample.set_metainfo({"text": WORDS, "custom_entities": True})
    return data


def numbers_of(node: Any, key: str) -> Iterator[int]:
    """The numbers that a config has under a key."""
    if isinstance(node, Mapping):
        if isinstance(node.get(key), int):
            yield node[key]
        for value in node.values():
            yield from numbers_of(value, key)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from numbers_of(value, key)


def answers(prediction: Any) -> str:
    parts = []
    if "pred_instances" in prediction:
        instances = prediction.pred_instances
        if not instances.get("scores", torch.zeros(0)).isfinite().all():
            raise ArithmeticError("scores that are not finite")
        parts.append(f"{len(instances)} objects")
    if "pred_panoptic_seg" in prediction:
        parts.append("a panoptic map")
    if "pred_sem_seg" in prediction:
        parts.append("a label map")
    if not parts:
        raise LookupError("a prediction without an answer")
    return " and ".join(parts)


def add_proposals(data: Any) -> None:
    from mmengine.structures import InstanceData

    for sample in data["data_samples"]:
        boxes = torch.tensor([[10.0, 10, 90, 90], [30, 20, 120, 100], [0, 0, 150, 140]])
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.ones(3), labels=torch.zeros(3).long())


def train_step(network: Any, detector: Any, data: Any) -> str:
    network.train()
    losses = network(**network.data_preprocessor(data, True), mode="loss")
    loss, log = network.parse_losses(losses)
    wrong = [key for key, value in log.items() if not torch.as_tensor(value).isfinite().all()]
    if wrong:
        raise ArithmeticError(f"losses that are not finite: {', '.join(wrong)}")
    loss.backward()
    gradients = {name: each.grad for name, each in detector.backbone.named_parameters()}
    if not all(each is None or each.isfinite().all() for each in gradients.values()):
        raise ArithmeticError("gradients of the trunk that are not finite")
    without = sum(each is None or not (each != 0).any() for each in gradients.values())
    partly = f", {without} of {len(gradients)} {UNTRAINED}" if without else ""
    return f"loss {float(loss):.3g}{partly}"


def step_on_videos(network: Any, detector: Any) -> str:
    from mmdet.testing import demo_track_inputs

    options = {"num_classes": 3, "num_items": [3], "with_mask": True}
    data = demo_track_inputs(1, 2, key_frames_inds=[0], image_shapes=[(3, *DETECTION_SIZE)], **options)
    seen = train_step(network, detector, data)
    network.eval()
    data = demo_track_inputs(1, 1, image_shapes=[(3, *DETECTION_SIZE)], **options)
    with torch.no_grad():
        (prediction,) = network.test_step(data)
    return f"{seen}, {len(prediction)} frames"


@cache
def drawn_language_model() -> str:
    """The folder of a BERT of one layer with random weights, in place of the one that a model downloads."""
    try:
        from transformers import BertConfig, BertModel, BertTokenizer
    except ImportError as error:
        raise NotHereError(str(error)) from error
    folder = tempfile.mkdtemp(prefix="sweep_bert_")
    atexit.register(shutil.rmtree, folder)
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *WORDS)
    Path(folder, "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(words), num_hidden_layers=1)).save_pretrained(folder)
    return folder


def follow_all_boxes(model: Any) -> None:
    """Lets a tracker begin a track with every box, up to 100: an untrained detector is sure of none."""
    tracker, rule = model["tracker"], model["detector"]["test_cfg"]
    if "score_thr" in rule:
        rule["score_thr"], rule["nms"]["max_num"] = 0.0, 100
    for key in ("obj_score_thr", "init_track_thr"):
        if key in tracker:
            tracker[key] = 0.0
    if "obj_score_thrs" in tracker:
        tracker["obj_score_thrs"] = {"high": 0.0, "low": 0.0}


def step_on_tracker(network: Any, trained: Any, model: Any) -> str:
    """Trains the detector, and the re-identification apart, as mmdet has it; then follows boxes."""
    from mmdet.testing import demo_track_inputs

    seen = train_step(trained, network.detector, drawn_images(model["detector"], DETECTION_SIZE, 2))
    if hasattr(network, "reid"):
        seen = f"{seen}, {step_on_people(network.reid)}"
    network.eval()
    data = demo_track_inputs(1, 2, image_shapes=[(3, *DETECTION_SIZE)], num_classes=3, num_items=[3, 2])
    data["inputs"][0][1] = data["inputs"][0][0]  # StrongSORT aligns the frames, which noise does not allow
    with torch.no_grad():
        (prediction,) = network.test_step(data)
    tracks = [len(frame.pred_track_instances) for frame in prediction]
    return f"{seen}, {' and '.join(map(str, tracks))} boxes followed"


def step_on_people(network: Any) -> str:
    """Re-identification: trains on two images of each of two people, and describes one."""
    from mmdet.structures import ReIDDataSample

    generator = torch.Generator().manual_seed(0)

    def batch(labels: list[int]) -> dict[str, Any]:
        size = (len(labels), 3, 256, 128)
        images = torch.randint(256, size, dtype=torch.uint8, generator=generator)
        return {"inputs": list(images), "data_samples": [ReIDDataSample().set_gt_label(n) for n in labels]}

    seen = train_step(network, network, batch([0, 0, 1, 1]))
    network.eval()
    with torch.no_grad():
        (prediction,) = network.test_step(batch([0]))
    return f"{seen}, {prediction.pred_feature.numel()} features"


def step_on_two_branches(network: Any, model: Any) -> str:
    """Trains on labelled images and on the teacher's answers for others; predicts."""
    branches = {
        name: drawn_images(model, DETECTION_SIZE, 2) for name in ("sup", "unsup_teacher", "unsup_student")
    }
    for data in branches.values():
        for sample in data["data_samples"]:
            sample.set_metainfo({"homography_matrix": np.eye(3, dtype=np.float32)})
    data = {key: {name: batch[key] for name, batch in branches.items()} for key in ("inputs", "data_samples")}
    seen = train_step(network, network.student, data)
    network.eval()
    with torch.no_grad():
        (prediction,) = network.test_step(drawn_images(model, DETECTION_SIZE, 1))
    return f"{seen}, {answers(prediction)}"


def run_segmentor(model: Any, path: Path, arch: str | None) -> tuple[str, str]:
    """Trains and predicts: the class of the config's own backbone, and what was seen."""
    from mmengine.structures import PixelData
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    made_for_one_process(model)
    size = LARGER.get(path.parent.name, SEGMENTATION_SIZE)
    height, width = size
    if "backbone" not in model:
        raise NoPlaceError("no backbone")
    own = swap_backbone(model, MODELS, arch)
    if isinstance(model.get("data_preprocessor"), Mapping):
        model["data_preprocessor"].update(size=size)
        model["data_preprocessor"].pop("test_cfg", None)
    else:
        model["data_preprocessor"] = {
            "type": "SegDataPreProcessor",
            "mean": [123.0, 116.0, 103.0],
            "std": [58.0, 57.0, 57.0],
            "bgr_to_rgb": True,
            "pad_val": 0,
            "seg_pad_val": 255,
            "size": size,
        }
    if model["test_cfg"].get("mode") == "slide":
        model["test_cfg"].update(crop_size=size, stride=(85, 85))
    channels = len(model["data_preprocessor"]["mean"])
    network = build(model, MODELS)
    generator = torch.Generator().manual_seed(0)

    def sample() -> Any:
        coarse = torch.randint(min(network.num_classes, 8), (1, height // 8, width // 8), generator=generator)
        labels = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)
        shapes = dict.fromkeys(("img_shape", "ori_shape", "pad_shape"), size)
        return SegDataSample(
            gt_sem_seg=PixelData(data=labels),
            gt_edge_map=PixelData(data=(labels > 3).long()),
            metainfo={**shapes, "padding_size": [0, 0, 0, 0]},
        )

    def image() -> torch.Tensor:
        return torch.randint(256, (channels, height, width), dtype=torch.uint8, generator=generator)

    data = {"inputs": [image(), image()], "data_samples": [sample(), sample()]}
    seen = train_step(network, network, data)
    network.eval()
    with torch.no_grad():
        (prediction,) = network.test_step({"inputs": [image()], "data_samples": [sample()]})
    labels = prediction.pred_sem_seg.data
    if labels.shape != (1, height, width) or not 0 <= labels.min() <= labels.max() < network.num_classes:
        raise ArithmeticError(f"a label map of {tuple(labels.shape)}, labels {labels.unique().tolist()}")
    return own, f"{seen}, a label map"


# --- all of them


def brief(error: BaseException) -> str:
    line = " ".join(str(error).strip().partition("\n")[0].split())
    return f"{type(error).__name__}: {line[:160]}"


def prepare_process() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    from mmengine.logging import MMLogger

    import hardnet_suite.openmm  # noqa: F401

    MMLogger.get_instance("mmengine").setLevel(logging.ERROR)
    logging.getLogger().setLevel(logging.ERROR)


def row_of(family: str, path: Path, error: str, *, arch: str, limit: int, trace: bool = False) -> Row:
    """What becomes of a config's model."""
    from mmengine.registry import DefaultScope

    package = family.partition("/")[0]
    register = __import__(f"{package}.utils", fromlist=["register_all_modules"]).register_all_modules
    register(init_default_scope=False)
    began = time.perf_counter()
    model = {} if error else model_of(path)
    own = str(parts_with_backbones(model)[0].get("backbone", {}).get("type", ""))
    run = run_detector if package == "mmdet" else run_segmentor
    try:
        if family in REASONS:
            raise NoPlaceError(REASONS[family])
        if error:
            raise NotHereError(error)
        with DefaultScope.overwrite_default_scope(package):
            try:
                with time_limit(limit):
                    own, detail = run(copy.deepcopy(model), path, arch)
                answer = WORKS
            except (NoPlaceError, NotHereError):
                raise
            except Exception as failure:
                answer, detail = FAILS, brief(failure)
                if trace:
                    traceback.print_exc()
            if answer == FAILS or UNTRAINED in detail:  # a matter of the model, or of the backbone?
                try:
                    with time_limit(limit):
                        _, own_detail = run(copy.deepcopy(model), path, None)
                except TimeoutError as failure:
                    if detail == brief(failure):
                        raise
                    own_detail = ""  # too slow to tell
                if UNTRAINED not in own_detail:
                    answer = FAILS
    except NoPlaceError as reason:
        answer, detail = NO_PLACE, str(reason)
    except NotHereError as reason:
        answer, detail = NOT_HERE, str(reason)
    except Exception as failure:
        answer, detail = NOT_HERE, brief(failure)
    seconds = round(time.perf_counter() - began, 1)
    return Row(family, path.name, str(model.get("type", "")), own, answer, detail, seconds)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise TimeoutError(f"takes more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def markdown(rows: list[Row]) -> str:
    """Counts per package, and a table with a line per family."""
    lines = []
    for package in ("mmdet", "mmseg"):
        counts = Counter(row.answer for row in rows if row.family.startswith(package))
        tried = counts[WORKS] + counts[FAILS]
        if tried:
            rest = [f"{counts[each]} {each}" for each in (NO_PLACE, NOT_HERE) if counts[each]]
            others = f"; {', '.join(rest)}" if rest else ""
            lines.append(f"- {package}: {counts[WORKS]} of {tried} kinds of models work{others}")
    lines += ["", "| family | models | own backbones | work | exceptions |", "|---|---|---|---:|---|"]
    for family in dict.fromkeys(row.family for row in rows):
        kinds = [row for row in rows if row.family == family]
        models, backbones = (
            ", ".join(dict.fromkeys(filter(None, (getattr(row, key) for row in kinds)))) or "–"
            for key in ("model", "backbone")
        )
        works = sum(row.answer == WORKS for row in kinds)
        exceptions = dict.fromkeys(f"{row.answer}: {row.detail}" for row in kinds if row.answer != WORKS)
        lines.append(
            f"| {family} | {models} | {backbones} | {works} of {len(kinds)} | {'; '.join(exceptions)} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("families", nargs="*", help="such as mmdet/atss or 'mmseg/*' (default: all)")
    parser.add_argument("--arch", default="hardnet39ds", help="the HarDNet (default hardnet39ds)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--limit", type=int, default=300, help="seconds per model (default 300)")
    parser.add_argument("--json", type=Path, help="writes all rows")
    parser.add_argument("--markdown", type=Path, help="writes the table")
    parser.add_argument("--trace", action="store_true", help="prints the traceback of what fails")
    args = parser.parse_args(arguments)
    chosen = families(args.families)
    began, rows = time.perf_counter(), []
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.workers, prepare_process, maxtasksperchild=20) as pool:
        plan = planned(dict(zip(chosen, pool.map(kinds_of, chosen, chunksize=1), strict=True)))
        run = partial(_row_of, arch=args.arch, limit=args.limit, trace=args.trace)
        for row in pool.imap(run, plan):
            rows.append(row)
            print(f"{row.answer:<32}{row.family}/{row.config} ({row.seconds} s) {row.detail}", flush=True)
    counts = Counter(row.answer for row in rows)
    print(f"{counts[WORKS]} of {counts[WORKS] + counts[FAILS]} work, {time.perf_counter() - began:.0f} s")
    if args.json:
        content = {"torch": torch.__version__, "arch": args.arch, "rows": [asdict(row) for row in rows]}
        write_file(args.json, json.dumps(content, indent=2) + "\n")
    if args.markdown:
        write_file(args.markdown, markdown(rows))
    return 1 if counts[FAILS] else 0


def _row_of(task: tuple[str, Path, str], **options: Any) -> Row:
    return row_of(*task, **options)


if __name__ == "__main__":
    sys.exit(main())
