"""What a config says of test time: translated exactly, or refused in one line."""

from __future__ import annotations

import copy

import pytest

from hardnet_suite.errors import UserError
from hardnet_suite.networks import Pad, Postprocess, Preprocess
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.records import (
    own_decoder,
    postprocess_of,
    prepared,
    prepared_loader,
    preprocess_of,
    records_of,
)

NAMES = {
    "ssd": "ssd320_hardnet39ds_bccd",
    "centernet": "centernet_hardnet85",
    "segmentor": "fchardnet70_camvid",
    "classifier": "hardnet39ds_imagenet",
}


@pytest.fixture
def config():
    """A function: the config of a task, to be changed."""

    def load(task: str):
        return copy.deepcopy(load_config(NAMES[task]))

    return load


def steps_of(cfg) -> list[dict]:
    return cfg.test_dataloader.dataset.pipeline


def with_step(cfg, step: dict, place: int = 1):
    steps = [dict(one) for one in steps_of(cfg)]
    steps.insert(place, step)
    cfg.test_dataloader.dataset.pipeline = steps
    return cfg


def replaced(cfg, step: dict, place: int = 1):
    steps = [dict(one) for one in steps_of(cfg)]
    steps[place] = step
    cfg.test_dataloader.dataset.pipeline = steps
    return cfg


@pytest.mark.parametrize(
    ("task", "step", "words"),
    [
        ("ssd", {"type": "RandomFlip", "prob": 1.0}, "RandomFlip cannot be expressed"),
        ("ssd", {"type": "Normalize", "mean": [0], "std": [1]}, "Normalize cannot be expressed"),
        ("ssd", {"type": "Resize", "scale": (300, 300)}, "Resize cannot be expressed"),  # a second one
        (
            "segmentor",
            {"type": "mmseg.ResizeShortestEdge", "scale": 64, "max_size": 99},
            "cannot be expressed",
        ),
        ("segmentor", {"type": "Resize", "scale": (64, 64), "backend": "pillow"}, "backend='pillow'"),
        (
            "segmentor",
            {"type": "Resize", "scale": (64, 64), "interpolation": "lanczos"},
            "interpolation='lanczos'",
        ),
        ("segmentor", {"type": "Resize", "scale": (64, 64), "keep_ration": True}, "did you mean keep_ratio"),
        ("segmentor", {"type": "Resize"}, "needs scale or scale_factor"),
        (
            "segmentor",
            {"type": "Pad", "size_divisor": 32, "padding_mode": "reflect"},
            "padding_mode='reflect'",
        ),
        ("segmentor", {"type": "TestTimeAug", "transforms": []}, "TestTimeAug cannot be expressed"),
        ("classifier", {"type": "torchvision/RandomCrop", "size": 9}, "torchvision/RandomCrop cannot"),
        ("classifier", {"type": "torchvision/CenterCrop", "size": 9, "fill": 3}, "no option 'fill'"),
        (
            "classifier",
            {"type": "torchvision/CenterCrop", "size": 9},
            "torchvision/Resize cannot",
        ),  # crop first
        ("classifier", {"type": "Pad", "size": (300, 300)}, "torchvision/Resize cannot"),
        ("classifier", {"type": "PackClass"}, "torchvision/Resize follows the packing step"),
        ("segmentor", {"type": "Resize", "scale": (224, 0)}, "scale is .*, expected integers of at least 1"),
        ("segmentor", {"type": "Resize", "scale_factor": -1.0}, "expected numbers above 0"),
        ("segmentor", {"type": "Resize", "scale_factor": "2"}, "expected numbers above 0"),
        ("segmentor", {"type": "Resize", "scale_factor": (1, 2, 3)}, "expected numbers above 0"),
        ("segmentor", {"scale": (64, 64)}, r"expected dict\(type="),
    ],
)
def test_steps_without_a_record_are_refused(config, task, step, words):
    place = 0 if task == "classifier" else 2 if task == "ssd" else 1
    with pytest.raises(UserError, match=words) as caught:
        preprocess_of(with_step(config(task), step, place))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"backend_args": {"backend": "petrel"}},
        {"color_type": "grayscale"},
        {"imdecode_backend": "pillow"},
        {"imdecode_backend": "cv2"},
        {"to_float32": True},
    ],
)
def test_images_are_decoded_in_one_way(config, option):
    cfg = replaced(config("ssd"), {"type": "LoadImageFromFile"} | option, 0)
    with pytest.raises(UserError, match="test images are decoded as 8-bit colour"):
        preprocess_of(cfg)


@pytest.mark.parametrize("task", ["ssd", "centernet", "segmentor"])
@pytest.mark.parametrize("scope", ["mmcv", "mmdet", "mmseg", "mmengine"])
def test_a_scope_does_not_choose_another_decoder(config, task, scope):
    """mmcv.LoadImageFromFile is mmcv's own class, which decodes with OpenCV: in no pipeline of ours."""
    cfg = replaced(config(task), {"type": f"{scope}.LoadImageFromFile"}, 0)
    cfg.train_dataloader.dataset.pipeline = [{"type": f"{scope}.LoadImageFromFile"}]
    steps = prepared_loader(cfg.test_dataloader, cfg)["dataset"]["pipeline"]
    assert steps[0]["type"] == "LoadImageFromFile"
    assert own_decoder(cfg.train_dataloader.dataset.pipeline[0])["type"] == "LoadImageFromFile"


@pytest.mark.parametrize(
    ("task", "place", "missing"),
    [("ssd", 0, "LoadImageFromFile"), ("ssd", -1, "PackDetInputs"), ("segmentor", 0, "LoadImageFromFile"),
     ("segmentor", -1, "PackSegInputs"), ("classifier", -1, "PackClass")],
)  # fmt: skip
def test_a_pipeline_loads_and_packs(config, task, place, missing):
    cfg = config(task)
    steps = list(steps_of(cfg))
    del steps[place]
    cfg.test_dataloader.dataset.pipeline = steps
    with pytest.raises(UserError, match=f"the test pipeline has no .*{missing}"):
        preprocess_of(cfg)


def test_keeping_the_aspect_ratio_needs_padding(config):
    step = {"type": "Resize", "scale": (320, 320), "keep_ratio": True}
    with pytest.raises(UserError, match=r"takes inputs of 320×320 pixels; .*Pad\(size="):
        preprocess_of(replaced(config("ssd"), step))


@pytest.mark.parametrize("key", ["test_cfg", "train_cfg"])
def test_options_of_the_head_that_mmdet_replaces(config, key):
    cfg = config("ssd")
    cfg.model.bbox_head[key] = {"score_thr": 0.99}
    with pytest.raises(UserError, match=rf"model\.bbox_head\.{key} has no effect; set .*model\.{key}"):
        preprocess_of(cfg)


@pytest.mark.parametrize("scale", [(320, 240), (512, 512)])
@pytest.mark.parametrize("keep_ratio", [False, True])
def test_an_ssd_takes_inputs_of_one_size(config, scale, keep_ratio):
    step = {"type": "Resize", "scale": scale, "keep_ratio": keep_ratio}
    with pytest.raises(UserError, match=r"ssd320_hardnet39ds takes inputs of 320×320 pixels; .*Pad\(size="):
        preprocess_of(replaced(config("ssd"), step))


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("ssd", {"nms": {"type": "soft_nms", "iou_threshold": 0.5}}, "nms.type='soft_nms'"),
        ("ssd", {"nms": {"type": "nms", "iou_thr": 0.5}}, "did you mean iou_threshold"),
        ("ssd", {"nms": {"type": "nms", "split_thr": 10_000}}, "no option 'split_thr'"),
        ("ssd", {"score_threshold": 0.5}, "no option 'score_threshold'; did you mean score_thr"),
        ("ssd", {"score_thr": 30}, "score_thr is 30, expected a number from 0 to 1"),
        ("ssd", {"max_per_img": -1}, "max_per_img is -1, expected an integer of at least 1"),
        ("ssd", {"min_bbox_size": 8}, "min_bbox_size=8 is not supported"),
        ("ssd", {"nms_pre": "all"}, "nms_pre is 'all', expected an integer"),
        ("ssd", {"nms": {"type": "nms", "offset": 3}}, "nms.offset is 3, expected 0 or 1"),
        ("segmentor", {"mode": "whole", "stride": (9, 9)}, "have no effect with mode='whole'"),
        ("segmentor", {"mode": "slide", "crop_size": (32, 64), "stride": (9, 9)}, "too small"),
        (
            "segmentor",
            {"mode": "slide", "crop_size": (64.0, 64), "stride": 9},
            "crop_size is .*, expected integers",
        ),
        ("centernet", {"topk": 50}, "no option 'topk'"),
        ("centernet", {"nms": {"type": "nms"}}, "no option 'nms'"),
        ("segmentor", {"mode": "slide"}, "'slide' with crop_size and stride"),
        ("segmentor", {"mode": "slides"}, "expected mode='whole', or 'slide'"),
        ("segmentor", {"mode": "slide", "crop_size": (64, 64), "stride": (65, 9)}, "stride"),
        ("segmentor", {"flip": True}, "no option 'flip'"),
        ("classifier", {"topk": (1, 5)}, "no option 'topk'"),
    ],
)
def test_test_options_without_a_record_are_refused(config, task, options, words):
    cfg = config(task)
    cfg.model.test_cfg = {**(cfg.model.get("test_cfg") or {}), **options}
    with pytest.raises(UserError, match=words) as caught:
        postprocess_of(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("ssd", {"type": "mmdet.BatchFixedSizePad"}, "has type BatchFixedSizePad; expected"),
        ("ssd", {"mean": [1.0]}, "one finite number per channel"),
        ("ssd", {"std": [1.0, 0.0, 1.0]}, "std > 0"),
        ("ssd", {"bgr2rgb": True}, "did you mean bgr_to_rgb"),
        ("segmentor", {"test_cfg": {"sizes": (3, 3)}}, "did you mean size"),
        *(
            (task, {key: None}, "expected both, or neither")
            for task in ("ssd", "centernet", "segmentor", "classifier")
            for key in ("mean", "std")
        ),
        ("classifier", {"mean": None, "std": None}, "neither mean nor std"),
        ("ssd", {"mean": 127}, "mean is 127, expected one finite number per channel"),
        ("centernet", {"mean": ["a", "b", "c"]}, "expected one finite number per channel"),
        ("segmentor", {"mean": "abc"}, "expected one finite number per channel"),
        ("segmentor", {"std": [1.0, float("nan"), 1.0]}, "expected one finite number per channel"),
        ("centernet", {"bgr_to_rgb": True, "rgb_to_bgr": True}, "contradict each other"),
        ("ssd", {"size_divisor": 64}, "no option 'size_divisor'"),  # mmseg's
        ("segmentor", {"pad_size_divisor": 64}, "no option 'pad_size_divisor'"),  # mmdet's
        ("centernet", {"pad_size_divisor": 0}, "the divisor is 0, expected integers of at least 1"),
        ("segmentor", {"test_cfg": {"size": None, "size_divisor": 0}}, "the divisor is 0"),
        ("segmentor", {"test_cfg": {"size": 200}}, r"test_cfg.size is 200, expected \(height, width\)"),
        ("segmentor", {"pad_val": (1, 2, 3)}, "expected one number"),
        ("ssd", {"pad_mask": True}, "pad_mask has no effect on a model that predicts boxes alone"),
        ("centernet", {"seg_pad_value": 255}, "seg_pad_value has no effect on a model that predicts boxes"),
        ("classifier", {"mix_probability": 0.5}, "mix_probability has no effect without mixup or cutmix"),
    ],
)
def test_data_preprocessors_without_a_record_are_refused(config, task, options, words):
    cfg = config(task)
    cfg.model.data_preprocessor.update(options)
    with pytest.raises(UserError, match=words):
        preprocess_of(cfg)


def test_no_suppression_and_no_limit(config):
    cfg = config("ssd")
    cfg.model.test_cfg.nms, cfg.model.test_cfg.nms_pre = None, None
    rule = postprocess_of(cfg)
    assert (rule.iou_threshold, rule.max_before_nms) == (None, None)


@pytest.mark.parametrize(
    ("task", "part", "key"),
    [
        *(("ssd", "bbox_head", key) for key in ("anchor_generator", "use_depthwise", "stacked_convs")),
        *(("ssd", "bbox_head", key) for key in ("feat_channels", "norm_cfg", "act_cfg", "conv_cfg")),
        ("ssd", "bbox_head", "init_cfg"),
        ("centernet", "bbox_head", "norm_cfg"),
        *(("segmentor", "decode_head", key) for key in ("align_corners", "norm_cfg", "act_cfg", "conv_cfg")),
    ],
)
def test_what_the_architecture_decides_is_not_an_option(config, task, part, key):
    cfg = config(task)
    cfg.model[part] = {**cfg.model.get(part, {}), key: False}
    words = f"model.{part} has {key}, which follows from the architecture"
    with pytest.raises(UserError, match=words):
        preprocess_of(cfg)
    cfg.test_dataloader = cfg.val_dataloader = None  # a config that only trains
    with pytest.raises(UserError, match=words):
        records_of(cfg)


def test_a_threshold_is_of_one_class(config):
    cfg = config("segmentor")
    cfg.model.decode_head.threshold = 0.4
    with pytest.raises(UserError, match="threshold has no effect with 11 classes, only with one"):
        records_of(cfg)
    cfg.model.decode_head.num_classes = 1
    assert postprocess_of(cfg).threshold == 0.4
    assert records_of(cfg)


def test_mixing_can_be_switched_off(config):
    cfg = config("classifier")
    cfg.model.data_preprocessor.update(mixup=0.0, mix_probability=0.5)
    assert records_of(cfg)


def test_heads_of_other_programs_have_options_of_their_own(config):
    cfg = config("segmentor")
    cfg.model.decode_head = {"type": "mmseg.FCNHead", "norm_cfg": {"type": "BN"}, "align_corners": True}
    cfg.model.auxiliary_head = [{"type": "mmseg.FCNHead", "norm_cfg": {"type": "BN"}}]
    assert records_of(cfg)
    cfg.model.auxiliary_head = {"type": "FCHarDNetHead", "norm_cfg": {"type": "BN"}}
    with pytest.raises(UserError, match=r"model\.auxiliary_head has norm_cfg"):
        records_of(cfg)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (
            "segmentor",
            {"sampler": {"type": "OHEMPixelSampler"}},
            "train_cfg.sampler has no effect; set model.decode_head.sampler",
        ),
        ("segmentor", {"work": 1}, "model.train_cfg has no option 'work'; known are none"),
        ("centernet", {"topk": 100}, "model.train_cfg has no option 'topk'; known are none"),
        ("ssd", {"neg_pos_ration": 3}, "model.train_cfg has no option .*; did you mean neg_pos_ratio"),
        ("ssd", {"debug": True}, "model.train_cfg has no option 'debug'"),
    ],
)
def test_options_of_training_that_nothing_reads_are_refused(config, task, options, words):
    cfg = config(task)
    cfg.model.train_cfg = {**cfg.model.get("train_cfg", {}), **options}
    with pytest.raises(UserError, match=words):
        records_of(cfg)


@pytest.mark.parametrize(
    "step", [{"type": "Resize", "scale": (100, 70)}, {"type": "CenterPad", "size": (100, 96)}]
)
def test_a_centernet_takes_multiples_of_32(config, step):
    cfg = replaced(config("centernet"), step)
    assert preprocess_of(cfg).input_divisor == 32
    cfg.model.data_preprocessor.pad_size_divisor = 1
    with pytest.raises(UserError, match="takes sides that are multiples of 32"):
        preprocess_of(cfg)


def test_every_data_set_of_a_loader_has_its_own_pipeline(config):
    cfg = config("segmentor")
    dataset = dict(cfg.test_dataloader.dataset)
    resize = {"type": "Resize", "scale": (96, 64)}
    other = {**dataset, "pipeline": [dataset["pipeline"][0], resize, *dataset["pipeline"][1:]]}
    loader = {"dataset": {"type": "ConcatDataset", "datasets": [dataset, other]}}
    first, second = prepared_loader(loader, cfg)["dataset"]["datasets"]
    rules = [one["pipeline"][1]["rule"] for one in (first, second)]
    assert [rule["resize"] for rule in rules] == ["keep", "stretch"]


def test_padding_is_translated(config):
    step = {"type": "Pad", "size": (400, 300), "pad_val": {"img": (1, 2, 3)}}  # width, height; BGR
    assert preprocess_of(with_step(config("segmentor"), step)).pad == Pad(to=(300, 400), value=(3, 2, 1))
    step = {"type": "mmdet.Pad", "size_divisor": 32, "pad_to_square": True}
    assert preprocess_of(with_step(config("segmentor"), step)).pad == Pad(multiple=32, square=True)
    cfg = config("segmentor")
    cfg.model.data_preprocessor.update(test_cfg={"size_divisor": 48}, pad_val=2)
    with pytest.raises(UserError, match="needs size or size_divisor, one of them"):
        preprocess_of(cfg)
    cfg.model.data_preprocessor.test_cfg.pop("size")
    rule = preprocess_of(cfg)
    assert (rule.input_divisor, rule.input_size, rule.input_value) == (48, (1, 1), 2.0)


@pytest.mark.parametrize("task", NAMES)
def test_records_survive_storage_and_a_prepared_pipeline(config, task):
    cfg = config(task)
    records = records_of(cfg)
    rule = Preprocess.from_dict(records["preprocess"])
    assert rule == preprocess_of(cfg)
    assert Postprocess.from_dict(records["postprocess"]) == postprocess_of(cfg)
    steps = prepared(steps_of(cfg), rule)
    assert "PrepareImage" in [step["type"] for step in steps]
    assert not {"Resize", "Pad", "CenterPad", "torchvision/Resize"} & {step["type"] for step in steps}
    cfg.test_dataloader.dataset.pipeline = steps  # a dumped config says the same when it is read again
    again = preprocess_of(cfg)
    assert again == rule


@pytest.mark.parametrize("values", [None, [1], {}, {"channels": "rgb"}, {"task": "detection"}])
def test_what_is_not_a_record(values):
    with pytest.raises(ValueError, match="not an input rule"):
        Preprocess.from_dict(values)
    with pytest.raises(ValueError, match="not an output rule"):
        Postprocess.from_dict(values)


def test_a_foreign_model_has_no_records(config):
    cfg = config("ssd")
    cfg.arch = None
    assert records_of(cfg) == {}


def test_the_decoder_is_the_suites_inside_of_other_steps():
    theirs = {"type": "mmcv.LoadImageFromFile", "to_float32": True}
    own, flip = {**theirs, "type": "LoadImageFromFile"}, {"type": "RandomFlip", "prob": 0.5}
    for wrap in (
        lambda step: {"type": "RandomApply", "transforms": [step, flip], "prob": 1.0},
        lambda step: {
            "type": "RandomChoice",
            "transforms": [[step], [flip, {"type": "A", "transforms": [step]}]],
        },
        lambda step: [flip, step],
    ):
        assert own_decoder(wrap(theirs)) == wrap(own)
    assert theirs["type"] == "mmcv.LoadImageFromFile"
    assert own_decoder(flip) == flip
