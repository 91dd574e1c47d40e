"""What a config says of test time, as the suite's own records.

``preprocess_of`` translates a test pipeline and the model's data preprocessor, ``postprocess_of`` the model's
``test_cfg``. Every option is translated exactly or refused in one line; none is passed over.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from mmengine.config import Config

from hardnet_suite.data.options import require_known
from hardnet_suite.errors import UserError
from hardnet_suite.networks import (
    ARCHS,
    PREPROCESS,
    CenterNetArch,
    DescriptorArch,
    HarDNetArch,
    Pad,
    Postprocess,
    Preprocess,
    SegmentationArch,
    SSDArch,
    centernet,
)
from hardnet_suite.openmm.data.parts import inner_datasets, kind_of
from hardnet_suite.openmm.models import rules
from hardnet_suite.openmm.models.config import MODEL_KINDS
from hardnet_suite.openmm.models.rules import pair

LOADERS = ("test_dataloader", "val_dataloader")
# steps of a test pipeline that do not touch the image, by their names without a scope
_LABEL_STEPS = ("LoadAnnotations", "LoadLabels", "LoadBoxesAndMasks")
_PACK_STEPS = ("PackDetInputs", "PackSegInputs", "PackClass")
_LOAD_STEPS = ("LoadImageFromFile", "LoadPicture")
_OTHERS_PREPROCESSORS = ("DetDataPreprocessor", "SegDataPreProcessor", "TrackDataPreprocessor")
# options of data preprocessors that have no effect at test time
_TRAINING_ONLY = {
    "DetDataPreprocessor": {
        "batch_augments",
        "boxtype2tensor",
        "mask_pad_value",
        "non_blocking",
        "pad_mask",
        "pad_seg",
        "seg_pad_value",
    },
    "SegDataPreProcessor": {"batch_augments", "non_blocking", "seg_pad_val", "size", "size_divisor"},
    "ClassificationPreprocessor": {"cutmix", "mix_probability", "mixup", "non_blocking", "num_classes"},
}


def is_suites(cfg: Config) -> bool:
    """Whether the config's model is one of the suite's, by its ``arch``."""
    return cfg.get("arch") in ARCHS


def decodes_itself(cfg: Config) -> bool:
    """Whether the suite makes the predictions of the config's model, which it does in float32 also under
    autocast: not for models of other programs, nor for their heads in a detector of the suite."""
    model = (cfg.get("model") or {}).get("module", cfg.get("model") or {})
    return "type" in model and kind_of(model) in MODEL_KINDS and _is_own(model.get("bbox_head") or {})


def preprocess_of(cfg: Config, loader: str | None = None) -> Preprocess:
    """The input rule that a config's test pipeline and data preprocessor make.

    Args:
        cfg: a config with an ``arch`` of the suite.
        loader: whose pipeline; default: ``test_dataloader``, or else ``val_dataloader``.

    Raises:
        UserError: a step or an option that the record cannot express.
    """
    if isinstance(ARCHS[cfg.arch], DescriptorArch):
        return PREPROCESS[cfg.arch]  # patches have no pipeline
    names = LOADERS if loader is None else (loader,)
    datasets = (one for name in names for one in inner_datasets((cfg.get(name) or {}).get("dataset")))
    dataset = next((one for one in datasets if one.get("pipeline")), None)
    if dataset is None:
        raise UserError(f"{cfg.filename}: no pipeline in {' or '.join(names)}")
    return _preprocess_of_steps(cfg, dataset["pipeline"])


def _preprocess_of_steps(cfg: Config, steps: Sequence[Mapping[str, Any]]) -> Preprocess:
    _require_effective(cfg)
    model = cfg.model.get("module", cfg.model)  # inside of a test-time augmentation wrapper
    options = _normalisation(model.get("data_preprocessor") or {}, cfg)
    try:
        rule = Preprocess(**options, **_steps_to_options(steps, cfg))
    except ValueError as error:
        raise UserError(f"{cfg.filename}: {error}") from None
    arch = ARCHS[cfg.arch]
    if isinstance(arch, SSDArch) and (arch.size, arch.size) not in (
        rule.height_width if rule.pad is None and rule.resize == "stretch" else None,
        rule.pad.to if rule.pad else None,
    ):
        size = f"({arch.size}, {arch.size})"
        raise UserError(
            f"{cfg.filename}: {cfg.arch} takes inputs of {arch.size}×{arch.size} pixels; let the test "
            f"pipeline resize to them: Resize(scale={size}, keep_ratio=False), or, to keep the aspect ratio, "
            f"Resize(scale={size}, keep_ratio=True) and Pad(size={size})"
        )
    if isinstance(arch, SegmentationArch) and rule.resize == "short":
        raise UserError(f"{cfg.filename}: a centre crop cuts off pixels, which have no prediction; remove it")
    if isinstance(arch, CenterNetArch) and not _is_multiple(rule, centernet.INPUT_MULTIPLE):
        raise UserError(
            f"{cfg.filename}: {cfg.arch} takes sides that are multiples of {centernet.INPUT_MULTIPLE}; "
            f"set model.data_preprocessor.pad_size_divisor={centernet.INPUT_MULTIPLE}, or add "
            f"CenterPad(multiple={centernet.INPUT_MULTIPLE}) to the test pipeline"
        )
    return rule


def _is_multiple(rule: Preprocess, step: int) -> bool:
    """Whether every input that the rule makes has sides that are multiples of ``step``."""
    if rule.input_divisor % step == 0:
        return True
    if rule.pad is not None:
        return (
            rule.pad.multiple % step == 0 if rule.pad.to is None else not any(n % step for n in rule.pad.to)
        )
    return rule.resize == "stretch" and not any(side % step for side in rule.height_width)


# what the suite's models decide themselves, so that a config cannot
_LAYERS = ("act_cfg", "conv_cfg", "norm_cfg")
_FIXED = {
    "bbox_head": (
        *_LAYERS,
        "anchor_generator",
        "bbox_coder",
        "feat_channels",
        "init_cfg",
        "reg_decoded_bbox",
        "stacked_convs",
        "use_depthwise",
    ),
    "decode_head": (*_LAYERS, "align_corners", "dropout_ratio", "in_index", "input_transform"),
}
_OWN_HEADS = ("HarDNetSSDHead", "HarDNetCenterNetHead", "FCHarDNetHead")
# what of ``model.train_cfg`` the suite's heads read
_TRAIN_OPTIONS = {
    SSDArch: ("assigner", "sampler", "allowed_border", "pos_weight", "neg_pos_ratio", "smoothl1_beta"),
    CenterNetArch: (),
    SegmentationArch: (),
}


def _require_effective(cfg: Config) -> None:
    """Refuses options of the model that nothing reads. Heads of other programs have their own."""
    model = cfg.model.get("module", cfg.model)
    where = f"{cfg.filename}: model"
    for part, key in product(("bbox_head", "decode_head"), ("train_cfg", "test_cfg")):
        if key in (model.get(part) or {}):
            raise UserError(f"{where}.{part}.{key} has no effect; set {where}.{key}")
    for name, part, head in _own_heads(model):
        for key in _FIXED[part]:
            if key in head:
                raise UserError(f"{where}.{name} has {key}, which follows from the architecture; remove it")
    _require_train_options(cfg, model, f"{where}.train_cfg")
    _require_preprocessor(model.get("data_preprocessor") or {}, f"{where}.data_preprocessor")
    _require_threshold_of_one_class(cfg, model.get("decode_head"), f"{where}.decode_head")


def _require_threshold_of_one_class(cfg: Config, head: Any, where: str) -> None:
    row = ARCHS[cfg.arch]
    if not isinstance(row, SegmentationArch) or not _is_own(head) or head.get("threshold") is None:
        return
    classes = head.get("num_classes", row.num_classes)
    if classes != 1:
        raise UserError(f"{where}.threshold has no effect with {classes} classes, only with one; remove it")


def _require_preprocessor(given: Mapping[str, Any], where: str) -> None:
    kind = _name(given) if "type" in given else ""
    for key in ("pad_mask", "mask_pad_value", "pad_seg", "seg_pad_value"):
        if kind == "DetDataPreprocessor" and given.get(key):
            raise UserError(f"{where}.{key} has no effect on a model that predicts boxes alone; remove it")
    mixing = given.keys() & {"mixup", "cutmix", "mix_probability"}  # 0 switches off what a base sets
    if kind == "ClassificationPreprocessor" and mixing == {"mix_probability"}:
        raise UserError(f"{where}.mix_probability has no effect without mixup or cutmix; set one of them")


def _own_heads(model: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The heads of the suite's kinds: what messages call them, their kind of part, and their options."""
    for part in _FIXED:
        if _is_own(head := model.get(part)):
            yield part, part, head
    extra = model.get("auxiliary_head") or ()
    if isinstance(extra, Mapping):
        extra = (extra,)
    for head in extra:
        if "type" in head and _is_own(head):
            yield "auxiliary_head", "decode_head", head


def _is_own(head: Any) -> bool:
    return isinstance(head, Mapping) and ("type" not in head or kind_of(head) in _OWN_HEADS)


def _require_train_options(cfg: Config, model: Mapping[str, Any], where: str) -> None:
    known = next((keys for kind, keys in _TRAIN_OPTIONS.items() if isinstance(ARCHS[cfg.arch], kind)), None)
    head = next((model[part] for part in _FIXED if model.get(part)), {})
    if known is None or not _is_own(head):
        return
    given = dict(model.get("train_cfg") or {})
    if "debug" in given and not given["debug"]:  # of every config of mmdet's
        del given["debug"]
    if isinstance(ARCHS[cfg.arch], SegmentationArch):
        if "sampler" in given:
            raise UserError(f"{where}.sampler has no effect; set model.decode_head.sampler")
        if model.get("auxiliary_head"):
            return  # may read some
    require_known(given, known, where)


def postprocess_of(cfg: Config) -> Postprocess | None:
    """The output rule that a config's ``model.test_cfg`` makes; None for a patch descriptor.

    UserError where no record can express it.
    """
    if isinstance(ARCHS[cfg.arch], DescriptorArch):
        return None
    model = cfg.model.get("module", cfg.model)
    threshold = model.get("decode_head", {}).get("threshold")
    where = f"{cfg.filename}: model.test_cfg"
    return rules.postprocess_of(ARCHS[cfg.arch], model.get("test_cfg"), where, threshold=threshold)


def records_of(cfg: Config) -> dict[str, Any]:
    """What a checkpoint of this config keeps of its test time: "model", "preprocess" and "postprocess".

    Empty for a model that is not the suite's. UserError where no record can express the config.
    """
    if not is_suites(cfg):
        return {}
    _require_effective(cfg)
    records = {"model": cfg.arch}
    if (rule := postprocess_of(cfg)) is not None:
        records["postprocess"] = rule.to_dict()
    if any(cfg.get(name) for name in LOADERS):  # otherwise the config only trains
        records["preprocess"] = preprocess_of(cfg).to_dict()
    return records


def prepared_loader(options: Any, cfg: Config) -> Any:
    """A data loader's options with every pipeline of its data sets ``prepared``; others are left alone."""
    if not isinstance(options, Mapping) or not is_suites(cfg):
        return options
    options = copy.deepcopy(options)
    for dataset in inner_datasets(options.get("dataset")):
        steps = dataset.get("pipeline") or ()
        if steps and not any(_name(step) == "TestTimeAug" for step in steps):
            rule = _preprocess_of_steps(cfg, dataset["pipeline"])
            dataset["pipeline"] = prepared(dataset["pipeline"], rule)
    return options


def prepared(steps: Sequence[Mapping[str, Any]], rule: Preprocess) -> list[dict[str, Any]]:
    """A test pipeline with ``PrepareImage`` in place of its steps that resize and pad.

    Args:
        steps: a pipeline that ``preprocess_of`` has translated.
        rule: the record.

    Returns:
        The steps that load the image, ``PrepareImage``, those that load labels, and the one that packs.
    """
    steps = [dict(step) for step in steps]
    load = [own_decoder(step) for step in steps if _name(step) in _LOAD_STEPS]
    labels = [step for step in steps if _name(step) in _LABEL_STEPS]
    pack = [_packed(step) for step in steps if _name(step) in _PACK_STEPS]
    return [*load, {"type": "PrepareImage", "rule": rule.to_dict()}, *labels, *pack]


def augmented(
    cfg: Config, steps: Sequence[Mapping[str, Any]], *, scales: Sequence[float], flip: bool
) -> list[dict[str, Any]]:
    """A test pipeline that makes several views of each image: at each scale, and mirrored as well.

    Args:
        cfg: the config, whose data preprocessor belongs to the input rule.
        steps: the pipeline.
        scales: factors on the size that the rule resizes to.
        flip: adds the mirror image at each scale.
    """
    steps = prepared(steps, _preprocess_of_steps(cfg, steps))
    at = next(index for index, step in enumerate(steps) if step["type"] == "PrepareImage")
    mirrored = (False, True) if flip else (False,)
    views = [{**steps[at], "scale": scale, "flip": mirror} for scale in scales for mirror in mirrored]
    branches = [views, *([step] for step in steps[at + 1 :])]
    return [*steps[:at], {"type": "TestTimeAug", "transforms": branches}]


def own_decoder(step: Any) -> Any:
    """A step of a pipeline, or several; where one loads an image, the decoder is the suite's, whatever its
    scope. Steps inside of other steps count."""
    if isinstance(step, list | tuple):
        return [own_decoder(one) for one in step]
    if not isinstance(step, Mapping):
        return step
    step = {key: own_decoder(value) if key == "transforms" else value for key, value in step.items()}
    return {**step, "type": "LoadImageFromFile"} if "type" in step and _name(step) in _LOAD_STEPS else step


def _packed(step: Mapping[str, Any]) -> dict[str, Any]:
    """The packing step, which passes on where the image lies."""
    step = dict(step)
    usual = {
        "PackDetInputs": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
        "PackSegInputs": ("img_path", "seg_map_path", "ori_shape", "img_shape", "flip", "flip_direction"),
    }.get(_name(step))
    if usual is not None:
        step["meta_keys"] = tuple(dict.fromkeys((*step.get("meta_keys", usual), "placement")))
    return step


def _name(step: Mapping[str, Any]) -> str:
    """A step's type without the scope: mmseg.Resize -> Resize."""
    if not isinstance(step, Mapping) or "type" not in step:
        raise UserError(f"a step of the test pipeline is {step!r}, expected dict(type=…, …)")
    return kind_of(step)


def _steps_to_options(steps: Iterable[Mapping[str, Any]], cfg: Config) -> dict[str, Any]:
    """The arguments of ``Preprocess`` that the steps of a test pipeline make."""
    made: dict[str, Any] = {"resize": "keep"}
    packed, loaded = False, isinstance(ARCHS[cfg.arch], HarDNetArch)  # whose data set loads the image
    for step in steps:
        if packed:
            raise UserError(
                f"{cfg.filename}: the test pipeline's {_name(step)} follows the packing step; remove it"
            )
        name, options = _name(step), {key: value for key, value in step.items() if key != "type"}
        where = f"{cfg.filename}: the test pipeline's {name}"
        if name == "TestTimeAug" and "module" in cfg.model:  # made by ``augmented``
            options = options["transforms"][0][0]
            name = _name(options)
        if name == "PrepareImage":
            rule = Preprocess.from_dict(options["rule"])
            return {
                key: getattr(rule, key)
                for key in (
                    "resize",
                    "size",
                    "resize_to",
                    "factor",
                    "interpolation",
                    "antialias",
                    "pad",
                )
            }
        packed = name in _PACK_STEPS
        if packed or name in _LABEL_STEPS:
            continue
        if name in _LOAD_STEPS:
            loaded = True
            _require_plain(options, where)
        elif name == "RandomFlip" and not options.get("prob"):
            continue
        elif name in ("Resize", "torchvision/Resize") and made["resize"] == "keep" and "pad" not in made:
            translate = _torchvision_resize if "/" in name else _resize
            made |= translate(options, where)
        elif (
            name == "torchvision/CenterCrop"
            and made["resize"] in ("keep", "short")
            and not made.keys()
            & {
                "size",
                "pad",
            }
        ):
            require_known(options, {"size"}, where)
            height, width = rules.integers(options.get("size"), f"{where}.size")
            made |= {"resize": "short", "size": (height, width) if height != width else height}
        elif name in ("Pad", "CenterPad") and "pad" not in made:
            made["pad"] = _pad(name, options, where)
        else:
            raise UserError(
                f"{where} cannot be expressed at test time: expected at most one Resize, then one Pad or "
                "CenterPad (classifiers: torchvision/Resize, torchvision/CenterCrop), then the packing step"
            )
    if not packed or not loaded:
        missing = "LoadImageFromFile" if packed else f"{', '.join(_PACK_STEPS[:-1])} or {_PACK_STEPS[-1]}"
        raise UserError(f"{cfg.filename}: the test pipeline has no {missing}")
    return made


def _require_plain(options: Mapping[str, Any], where: str) -> None:
    """Images are decoded in one way: options of ``LoadImageFromFile`` that ask for another are refused."""
    usual = {
        "color_type": "color",
        "imdecode_backend": None,
        "to_float32": False,
        "ignore_empty": False,
        "file_client_args": None,
        "backend_args": None,
    }
    require_known(options, usual, where)
    for key, value in options.items():
        if value != usual[key]:
            raise UserError(f"{where} has {key}={value!r}; test images are decoded as 8-bit colour, locally")


def _resize(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {"scale", "scale_factor", "keep_ratio", "interpolation", "backend", "clip_object_border"}
    require_known(options, known, where)
    made = {"interpolation": _interpolation(options.get("interpolation", "bilinear"), where)}
    if options.get("backend", "cv2") != "cv2":
        raise UserError(f"{where} has backend={options['backend']!r}; expected 'cv2'")
    if options.get("scale") is not None:
        width, height = rules.integers(options["scale"], f"{where}.scale")
        made["size"] = (height, width) if height != width else height
        return made | {"resize": "fit" if options.get("keep_ratio") else "stretch"}
    if options.get("scale_factor") is None:
        raise UserError(f"{where} needs scale or scale_factor")
    try:
        factors = pair(options["scale_factor"])
    except TypeError:
        factors = ()
    if len(factors) != 2 or not all(type(f) in (int, float) and math.isfinite(f) and f > 0 for f in factors):
        raise UserError(f"{where}.scale_factor is {options['scale_factor']!r}, expected numbers above 0")
    horizontal, vertical = factors
    if options.get("keep_ratio") and horizontal != vertical:
        raise UserError(f"{where}: two scale factors and keep_ratio=True contradict each other")
    return made | {"resize": "factor", "factor": (vertical, horizontal)}


def _torchvision_resize(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    require_known(options, {"size", "interpolation", "antialias", "max_size"}, where)
    if options.get("max_size") is not None or options.get("antialias") is False:
        raise UserError(f"{where}: max_size and antialias=False are not supported; remove them")
    made = {
        "antialias": True,
        "interpolation": _interpolation(options.get("interpolation", "bilinear"), where),
    }
    size = options.get("size")
    if isinstance(size, int) or (isinstance(size, Sequence) and len(size) == 1):
        side, _ = rules.integers(size if isinstance(size, int) else size[0], f"{where}.size")
        return made | {"resize": "short", "resize_to": side}
    height, width = rules.integers(size, f"{where}.size")
    return made | {"resize": "stretch", "size": (height, width) if height != width else height}


def _interpolation(value: Any, where: str) -> str:
    name = str(getattr(value, "value", value)).lower().removeprefix("interpolationmode.")
    if name not in ("nearest", "bilinear", "bicubic"):
        raise UserError(f"{where} has interpolation={name!r}; expected nearest, bilinear or bicubic")
    return name


def _pad(name: str, options: Mapping[str, Any], where: str) -> Pad:
    if name == "CenterPad":
        require_known(options, {"multiple", "size"}, where)
        to = options.get("size")
        to = None if to is None else rules.integers(to, f"{where}.size")
        return Pad(to=to, **_multiple(options), center=True)
    require_known(options, {"size", "size_divisor", "pad_to_square", "pad_val", "padding_mode"}, where)
    if options.get("padding_mode", "constant") != "constant":
        raise UserError(f"{where} has padding_mode={options['padding_mode']!r}; expected 'constant'")
    value = options.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    if isinstance(value, Sequence):
        value = tuple(float(number) for number in value[::-1])  # the pipeline's images are BGR
    to = options.get("size")
    if [bool(options.get(key)) for key in ("size", "size_divisor")].count(True) + bool(
        options.get("pad_to_square")
    ) not in (1, 2) or (to and (options.get("size_divisor") or options.get("pad_to_square"))):
        raise UserError(f"{where} needs size, size_divisor or pad_to_square (with or without a divisor)")
    return Pad(
        to=None if to is None else rules.integers(to, f"{where}.size")[::-1],  # mmcv says (width, height)
        multiple=options.get("size_divisor") or 1,
        square=bool(options.get("pad_to_square", False)),
        value=value,
    )


def _multiple(options: Mapping[str, Any]) -> dict[str, Any]:
    return {} if options.get("multiple") is None else {"multiple": options["multiple"], "larger": True}


def _normalisation(given: Mapping[str, Any], cfg: Config) -> dict[str, Any]:
    """The arguments of ``Preprocess`` that the model's data preprocessor makes."""
    where = f"{cfg.filename}: model.data_preprocessor"
    kind = _name(given) if "type" in given else ""
    options = {
        key: value for key, value in given.items() if key not in {"type", *_TRAINING_ONLY.get(kind, ())}
    }
    colours = {"mean", "std", "bgr_to_rgb", "rgb_to_bgr"}
    allowed = {
        "DetDataPreprocessor": colours | {"pad_size_divisor", "pad_value"},
        "SegDataPreProcessor": colours | {"pad_val", "test_cfg"},
        "ClassificationPreprocessor": {"mean", "std"},
    }
    if kind not in allowed:
        raise UserError(f"{where} has type {kind or 'none'}; expected {', '.join(allowed)}")
    require_known(options, allowed[kind], where)
    made = _pixels(kind, options, where)
    test = options.get("test_cfg") or {}
    require_known(test, {"size", "size_divisor"}, f"{where}.test_cfg")
    if test and (test.get("size") is None) == (test.get("size_divisor") is None):
        raise UserError(f"{where}.test_cfg needs size or size_divisor, one of them: got {dict(test)}")
    divisor = options.get("pad_size_divisor", test.get("size_divisor"))
    made["input_divisor"] = 1 if divisor is None else rules.integers(divisor, f"{where}: the divisor")[0]
    if test.get("size") is not None:
        if not isinstance(test["size"], Sequence):
            raise UserError(f"{where}.test_cfg.size is {test['size']!r}, expected (height, width)")
        made["input_size"] = rules.integers(test["size"], f"{where}.test_cfg.size")
    value = options.get("pad_value", options.get("pad_val", 0))
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where} pads with {value!r}, expected one number")
    made["input_value"] = float(value)
    return made


def _pixels(kind: str, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a data preprocessor makes of pixels, as arguments of ``Preprocess``."""
    if options.get("bgr_to_rgb") and options.get("rgb_to_bgr"):
        raise UserError(f"{where}: bgr_to_rgb and rgb_to_bgr contradict each other; set one of them")
    mean, std = options.get("mean"), options.get("std")
    if (mean is None) != (std is None):
        raise UserError(f"{where} has mean={mean!r} and std={std!r}; expected both, or neither")
    if mean is None and kind == "ClassificationPreprocessor":
        raise UserError(f"{where} has neither mean nor std; expected both")
    is_rgb = kind == "ClassificationPreprocessor" or options.get("bgr_to_rgb") or options.get("rgb_to_bgr")
    return {
        "scale": 1.0,
        "mean": (0.0,) * 3 if mean is None else _per_channel(mean, f"{where}.mean"),
        "std": (1.0,) * 3 if std is None else _per_channel(std, f"{where}.std"),
        "channels": "rgb" if is_rgb else "bgr",
    }


def trunk_input_differences(cfg: Config, expected: Preprocess) -> list[str]:
    """In which of "channels", "mean" and "std" a model of another program gives its backbone other input.

    Args:
        cfg: its config.
        expected: the input rule of the backbone's weights.

    Returns:
        Empty also where the data preprocessor is none of mmdet's and mmseg's, or not of three channels.
    """
    given = cfg.model.get("data_preprocessor") or {}
    while isinstance(given.get("data_preprocessor"), Mapping):  # inside of a MultiBranchDataPreprocessor
        given = given["data_preprocessor"]
    kind = kind_of(given) if "type" in given else ""
    if (given and kind not in _OTHERS_PREPROCESSORS) or len(expected.mean) != 3:
        return []
    try:
        own = Preprocess(**_pixels(kind, given, "model.data_preprocessor"), resize="keep")
    except UserError:
        return []
    different = []
    if own.channels != expected.channels:  # mean and std are then compared channel by channel
        different = ["channels"]
        own = replace(own, channels=expected.channels, mean=own.mean[::-1], std=own.std[::-1])
    return different + [name for name in ("mean", "std") if name in own.differences(expected)]


def _per_channel(values: Any, where: str) -> tuple[float, ...]:
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    if len(numbers) != 3 or not all(
        type(number) in (int, float) and math.isfinite(number) for number in numbers
    ):
        raise UserError(f"{where} is {values!r}, expected one finite number per channel, three")
    return tuple(map(float, numbers))
