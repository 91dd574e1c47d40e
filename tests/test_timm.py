"""HarDNet in timm, and through timm in segmentation-models-pytorch, mmsegmentation and transformers."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reference import assert_parity
from torch import nn

from hardnet_suite import create_model, predict
from hardnet_suite.errors import UserError
from hardnet_suite.inference import prepare, to_input
from hardnet_suite.networks import ARCHS, HarDNetArch, HarDNetClassifier, Preprocess
from hardnet_suite.weights import ROWS, find

timm = pytest.importorskip("timm", reason="timm is not installed")
ours = pytest.importorskip("hardnet_suite.timm")

NAMES = [name for name, row in ARCHS.items() if isinstance(row, HarDNetArch)]
SMALL = "hardnet39ds"
TAG = "hardnet39ds.tiny_imagenet10"
FEATURE_CLASSES = [None, "list", "dict", "getter", "hook", "fx"]


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def own_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    return tmp_path


def in_eval(network: nn.Module, x: torch.Tensor):
    with torch.inference_mode():
        return network.eval()(x)


def test_without_timm_the_import_says_what_to_install():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "try:\n    import hardnet_suite.timm\nexcept ModuleNotFoundError as error:\n    print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "hardnet_suite.timm needs timm: pip install" in run.stdout, run.stderr


def test_every_classifier_of_the_table_is_registered():
    assert set(timm.list_models("hardnet*")) == {*NAMES}
    assert set(timm.list_models(module="timm")) == {*NAMES}
    tags = {f"{row.model}.{row.tag}" for row in ROWS if row.model in NAMES and row.layout != "onnx"}
    assert {*timm.list_pretrained("hardnet*")} == tags
    assert {TAG, "hardnet68.published"} <= tags
    assert {"default_cfgs", *NAMES} <= {*ours.__all__}
    assert ours.hardnet68.__name__ == "hardnet68"


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_the_suites_own(name, images):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=5)
    assert type(network) is HarDNetClassifier
    own = create_model(name, num_classes=5)
    own.load_state_dict(network.state_dict(), strict=True)
    torch.testing.assert_close(in_eval(network, images), in_eval(own, images), rtol=0, atol=0)
    assert network.usage == own.usage
    assert timm.create_model(name).num_classes == 1000


@pytest.mark.parametrize("name", NAMES)
def test_the_size_of_the_last_map_is_that_of_the_cfg(name):
    """Pools round down, strided convolutions up: no division of the input's sides tells."""
    network = timm.create_model(name)
    cfg = network.pretrained_cfg
    maps = network.eval().forward_features(torch.zeros(1, *cfg["input_size"]))
    assert tuple(maps.shape[2:]) == cfg["pool_size"]


def test_options(images):
    network = timm.create_model(SMALL, num_classes=3, in_chans=4, drop_rate=0.4, output_stride=8)
    assert (network.num_classes, network.in_chans, network.drop.p, network.drop_rate) == (3, 4, 0.4, 0.4)
    assert in_eval(network, images[:, [0, 1, 2, 0]]).shape == (2, 3)
    assert [info["reduction"] for info in network.feature_info] == [2, 4, 8, 8, 8]
    assert timm.create_model(SMALL, drop_rate=0.0).drop.p == 0
    assert timm.create_model(SMALL).drop.p == ARCHS[SMALL].dropout
    pooled = timm.create_model(SMALL, num_classes=0)
    assert in_eval(pooled, images).shape == (2, pooled.num_features)
    unpooled = timm.create_model(SMALL, num_classes=0, global_pool="")
    assert unpooled.global_pool == ""
    assert in_eval(unpooled, images).shape == (2, unpooled.num_features, 2, 3)


def test_device_and_dtype():
    network = timm.create_model(SMALL, device="meta", dtype=torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in network.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": 4}, "output_stride=4"),
        ({"global_pool": "max"}, "global_pool 'avg'"),
        ({"global_pool": ""}, "global_pool 'avg'"),
        ({"drop_rate": 1.5}, "dropout probability"),
        ({"drop_rate": float("nan")}, "drop_rate=nan .* dropout probability"),
        ({"drop_rate": True}, "drop_rate=True .* dropout probability"),
        ({"drop_rate": "0.1"}, "drop_rate='0.1' .* dropout probability"),
        ({"num_classes": -1}, "num_classes=-1"),
        ({"in_chans": 0}, "in_chans=0"),
        ({"features_only": True, "out_indices": (5,)}, "out_indices=.5,. must be"),
        ({"features_only": True, "out_indices": 6}, "indices=6 must be from 1 to 5"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model(SMALL, **options)


def test_options_that_do_not_exist_are_refused():
    with pytest.raises(TypeError, match="drop_path_rate"):
        timm.create_model(SMALL, drop_path_rate=0.1)


# --- the input rule


def drawn_image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", [*NAMES, TAG, "hardnet39dsa.tiny_imagenet10"])
@pytest.mark.parametrize("size", [(500, 375), (300, 420), (64, 64)])
def test_timms_transform_is_the_suites_input_rule(name, size):
    network = timm.create_model(name, pretrained="." in name)
    config = timm.data.resolve_model_data_config(network)
    image = drawn_image(*size)
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    rule = network.usage.preprocess
    own = to_input(prepare(image, rule)[0][None], rule)[0]
    assert theirs.shape == own.shape
    assert (theirs - own).abs().max() < 2.5 / 255 / min(config["std"])  # Pillow rounds after each axis


@pytest.mark.parametrize("create", [create_model, timm.create_model])
def test_imagenet_config(create):
    config = timm.data.resolve_model_data_config(create("hardnet68"))
    assert config == {
        "input_size": (3, 224, 224),
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    (resize, crop, *_) = timm.data.create_transform(**config, is_training=False).transforms
    assert (resize.size, crop.size) == (256, (224, 224))
    assert "bilinear" in str(resize.interpolation).lower()


@pytest.mark.parametrize("tap", [True, "block"])
@pytest.mark.parametrize(("name", "weights"), [("hardnet68", False), (SMALL, "tiny_imagenet10")])
def test_a_trunk_has_the_config_of_its_classifier(name, weights, tap):
    trunk = create_model(name, pretrained=weights, features_only=tap)
    network = create_model(name, pretrained=weights)
    for resolve in (
        timm.data.resolve_model_data_config,
        lambda m: timm.data.resolve_data_config({}, model=m),
    ):
        assert resolve(trunk) == resolve(network)
    assert trunk.default_cfg == trunk.pretrained_cfg
    assert trunk.pretrained_cfg["first_conv"] in dict(trunk.named_modules())


def test_a_rule_that_timm_cannot_express_is_an_error():
    trunk = create_model("ssd512_hardnet68", features_only=True, out_indices=[0])
    with pytest.raises(ValueError, match="timm's transforms cannot express the input rule"):
        timm.data.resolve_model_data_config(trunk)
    torch.jit.script(trunk)
    torch.jit.trace(trunk, torch.rand(1, 3, 64, 64), check_trace=False)  # looks at every property
    copy.deepcopy(trunk)
    for read in (dict, list, len, lambda cfg: cfg["mean"], lambda cfg: "mean" in cfg):
        with pytest.raises(ValueError, match="timm's transforms cannot express the input rule"):
            read(trunk.pretrained_cfg)


def test_the_config_follows_the_weights():
    network = create_model(SMALL, pretrained="tiny_imagenet10")
    config = timm.data.resolve_model_data_config(network)
    assert (config["input_size"], config["crop_pct"]) == ((3, 64, 64), 1.0)
    assert network.default_cfg == network.pretrained_cfg
    assert network.pretrained_cfg["num_classes"] == 10


@pytest.mark.parametrize("to", range(224, 400, 7))
def test_every_resize_is_timms(to):
    rule = Preprocess(
        "rgb", 255.0, (0.5,) * 3, (0.2,) * 3, resize="short", size=224, resize_to=to, antialias=True
    )
    (resize, *_) = timm.data.create_transform(**rule.timm_config(), is_training=False).transforms
    assert resize.size == to


def test_a_stretched_input():
    rule = Preprocess("rgb", 1.0, (127.5,) * 3, (51.0,) * 3, resize="stretch", size=96, antialias=True)
    config = rule.timm_config()
    image = drawn_image(200, 150)
    theirs = timm.data.create_transform(**config, is_training=False)(image)
    own = to_input(prepare(image, rule)[0][None], rule)[0]
    assert (theirs - own).abs().max() < 2.5 / 51
    assert config["mean"] == (0.5,) * 3


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": "bgr"},
        {"antialias": False},
        {"resize": "keep", "size": None},
        {"resize": "short", "size": None},
        {"resize": "short", "size": (64, 96)},
        {"resize": "short", "size": 64, "resize_to": 60},
        {"input_divisor": 32},
    ],
)
def test_rules_that_timm_cannot_express(changes):
    rule = {"channels": "rgb", "resize": "short", "size": 64, "resize_to": 64, "antialias": True} | changes
    with pytest.raises(ValueError, match="timm's transforms cannot express"):
        Preprocess(scale=255.0, mean=(0.5,) * 3, std=(0.2,) * 3, **rule).timm_config()


# --- weights


def test_a_tag_of_the_registry(images):
    network = timm.create_model(TAG, pretrained=True)
    own = create_model(SMALL, pretrained="tiny_imagenet10")
    torch.testing.assert_close(in_eval(network, images), in_eval(own, images), rtol=0, atol=0)
    assert network.usage == own.usage
    assert network.num_classes == 10
    assert network.pretrained_cfg["label_names"] == own.usage.classes
    image = np.asarray(drawn_image(80, 64))
    for theirs, suites in zip(predict(network, image), predict(own, image), strict=True):
        assert (*theirs.names,) == (*suites.names,)
    # the same by timm's other ways to say it
    other = timm.create_model(SMALL, pretrained=True, pretrained_cfg="tiny_imagenet10")
    torch.testing.assert_close(in_eval(other, images), in_eval(own, images), rtol=0, atol=0)


def test_a_tag_without_pretrained_is_its_configuration_alone():
    network = timm.create_model(TAG)
    assert network.num_classes == 10
    own = create_model(SMALL, pretrained="tiny_imagenet10")
    assert not torch.equal(network.fc.weight, own.fc.weight)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_pretrained_weights_adapt_as_the_suites_do(in_chans):
    options = {"num_classes": 5, "in_chans": in_chans}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        network = timm.create_model(TAG, pretrained=True, **options)
    assert any("not in the weights" in str(warning.message) for warning in caught)
    own = create_model(SMALL, pretrained="tiny_imagenet10", **options)
    for key, value in own.trunk.state_dict().items():
        torch.testing.assert_close(network.trunk.state_dict()[key], value, rtol=0, atol=0)
    headless = timm.create_model(TAG, pretrained=True, num_classes=0, in_chans=in_chans)
    assert headless.num_classes == 0


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68"])
def test_published_weights(name, own_weights, golden):
    torch.save(golden.state_dict(name), own_weights / find(name).file)
    for full_name in (name, f"{name}.published"):
        network = timm.create_model(full_name, pretrained=True)
        assert_parity(in_eval(network, golden.input(name)), golden.outputs(name)["out"])
    features = timm.create_model(name, pretrained=True, features_only=True)
    for key, value in features.model.trunk.state_dict().items():
        torch.testing.assert_close(value, network.trunk.state_dict()[key], rtol=0, atol=0)


def test_a_file_of_ones_own_brings_its_classes_and_input_rule(tmp_path, images):
    path = ours.default_cfgs[SMALL].cfgs["tiny_imagenet10"].file
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(Path(path).read_bytes())
    network = timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": str(copy)})
    assert network.num_classes == 10
    assert timm.data.resolve_model_data_config(network)["input_size"] == (3, 64, 64)
    expected = timm.create_model(TAG, pretrained=True)
    torch.testing.assert_close(in_eval(network, images), in_eval(expected, images), rtol=0, atol=0)
    overlay = {"file": str(copy), "interpolation": "bicubic"}
    network = timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay=overlay)
    assert timm.data.resolve_model_data_config(network)["interpolation"] == "bicubic"


def test_timms_own_sources_stay_timms(tmp_path, images):
    expected = timm.create_model(TAG, pretrained=True)
    state = expected.state_dict()
    network = timm.create_model(TAG, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(state)})
    torch.testing.assert_close(in_eval(network, images), in_eval(expected, images), rtol=0, atol=0)
    torch.save(state, tmp_path / "checkpoint.pth")
    network = timm.create_model(SMALL, num_classes=10, checkpoint_path=str(tmp_path / "checkpoint.pth"))
    torch.testing.assert_close(in_eval(network, images), in_eval(expected, images), rtol=0, atol=0)


def test_a_local_folder_as_timm_saves_it(tmp_path, images):
    expected = timm.create_model(TAG, pretrained=True)
    config = {"architecture": SMALL, "num_classes": 10, "pretrained_cfg": {"num_classes": 10}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(expected.state_dict(), tmp_path / "pytorch_model.bin")
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    torch.testing.assert_close(in_eval(network, images), in_eval(expected, images), rtol=0, atol=0)


def test_weights_that_are_not_there(own_weights, monkeypatch):
    with pytest.raises(RuntimeError, match="No pretrained weights exist for hardnet39dsa"):
        timm.create_model("hardnet39dsa", pretrained=True)
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model("hardnet68.camvid", pretrained=True)
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        timm.create_model(SMALL, pretrained=True, pretrained_cfg_overlay={"file": "none.pth"})
    with pytest.raises(ValueError, match="cache_dir has no effect"):
        timm.create_model("hardnet68", pretrained=True, cache_dir=str(own_weights))


# --- feature maps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("feature_cls", FEATURE_CLASSES)
def test_feature_maps(name, feature_cls, images):
    options = {} if feature_cls is None else {"feature_cls": feature_cls}
    torch.manual_seed(0)
    network = timm.create_model(name, features_only=True, output_stride=16, **options)
    maps = in_eval(network, images)
    if feature_cls == "dict":
        assert [*maps] == ["0", "1", "2", "3", "4"]
        maps = [*maps.values()]
    trunk = create_model(name, features_only=True, out_indices=range(5), output_stride=16).eval()
    state = {key.rpartition("trunk.")[2]: value for key, value in network.state_dict().items()}
    trunk.load_state_dict({key: state[key] for key in trunk.state_dict()})
    for found, expected in zip(maps, in_eval(trunk, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    info = network.feature_info
    assert info.channels() == trunk.feature_info.channels() == [m.shape[1] for m in maps]
    assert info.reduction() == trunk.feature_info.reduction() == [64 // m.shape[2] for m in maps]
    assert "num_classes" not in network.pretrained_cfg
    assert timm.data.resolve_model_data_config(network)["interpolation"] == "bilinear"


@pytest.mark.parametrize("feature_cls", ["list", "dict", "fx"])
def test_the_forms_of_feature_maps(feature_cls, images):
    network = timm.create_model(SMALL, features_only=True, feature_cls=feature_cls, out_indices=(3, 1)).eval()
    dims = (dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC),)
    traced = torch.fx.symbolic_trace(network)
    forms = {
        "script": torch.jit.script(network),
        "trace": torch.jit.trace(network, images, strict=False),
        "fx": traced,
        "script of fx": torch.jit.script(traced),
        "export": torch.export.export(network, (images,), dynamic_shapes=dims).module(),
        "compile": torch.compile(network, backend="eager", fullgraph=True),
    }
    other = torch.rand(len(images) + 1, 3, 96, 128)
    with torch.no_grad():
        expected = network(other)
        for form in forms.values():
            torch.testing.assert_close(form(other), expected, rtol=0, atol=0)


@pytest.mark.parametrize("feature_cls", FEATURE_CLASSES)
@pytest.mark.parametrize("out_indices", [(1, 2), (0,), (4,), (2, 4), (-2, -1), 2])
def test_chosen_feature_maps(out_indices, feature_cls, images):
    options = {} if feature_cls is None else {"feature_cls": feature_cls}
    network = timm.create_model(SMALL, features_only=True, out_indices=out_indices, **options)
    maps = in_eval(network, images)
    maps = [*maps.values()] if isinstance(maps, dict) else maps
    chosen = range(-out_indices, 0) if isinstance(out_indices, int) else out_indices
    channels = [create_model(SMALL).feature_info[i]["num_chs"] for i in chosen]
    assert [m.shape[1] for m in maps] == network.feature_info.channels() == channels


@pytest.mark.parametrize("feature_cls", [*FEATURE_CLASSES, timm.models.FeatureGraphNet])
def test_feature_maps_come_in_the_order_asked_for(feature_cls, images):
    options = {} if feature_cls is None else {"feature_cls": feature_cls}
    network = timm.create_model(SMALL, features_only=True, out_indices=(3, -5, 1), **options)
    maps = in_eval(network, images)
    maps = [*maps.values()] if isinstance(maps, dict) else maps
    assert network.feature_info.reduction() == [16, 2, 4]
    assert [64 // m.shape[2] for m in maps] == [16, 2, 4]


@pytest.mark.parametrize(("names", "keys"), [(None, ["3", "1"]), (["deep", "fine"], ["deep", "fine"])])
def test_named_maps_of_a_graph_come_in_the_order_asked_for(names, keys, images):
    cfg = {"feature_cls": "fx", "return_dict": True, "out_map": names}
    network = timm.create_model(SMALL, features_only=True, out_indices=(3, 1), feature_cfg=cfg)
    maps = in_eval(network, images)
    assert [*maps] == keys
    assert [64 // m.shape[2] for m in maps.values()] == [16, 4]


def test_later_stages_are_removed(images):
    network = timm.create_model("hardnet68", features_only=True, out_indices=(0, 2))
    trunk = network.model.trunk
    assert len(trunk.stages) == 3
    assert type(trunk.stages[-1].down) is nn.Identity
    network.train()(images)[-1].mean().backward()
    unused = [key for key, p in network.named_parameters() if p.grad is None]
    assert unused == []
    stem = timm.create_model("hardnet39ds", features_only=True, out_indices=(0,))
    assert [key for key in stem.state_dict() if not key.startswith("model.trunk.stem.")] == []


def test_feature_options_by_timms_other_ways(images):
    network = timm.create_model(SMALL, features_only=True, feature_cfg={"feature_cls": "getter"})
    assert type(network).__name__ == "FeatureGetterNet"
    for kind in (timm.models.FeatureListNet, timm.models.FeatureDictNet):
        assert len(in_eval(timm.create_model(SMALL, features_only=True, feature_cls=kind), images)) == 5
    with pytest.raises(TypeError, match="flatten_sequentially"):
        timm.create_model(SMALL, features_only=True, feature_cfg={"flatten_sequentially": True})


def test_gradient_checkpointing_of_feature_maps(images):
    torch.manual_seed(0)
    plain = timm.create_model(SMALL, features_only=True)
    saving = timm.create_model(SMALL, features_only=True)
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    assert saving.model.trunk.with_cp
    for network in (plain, saving):
        sum(m.square().mean() for m in network.train()(images)).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


# --- the classifier's own methods


@pytest.fixture(scope="module")
def classifier() -> HarDNetClassifier:
    torch.manual_seed(0)
    return create_model("hardnet68", num_classes=5).eval()


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize("indices", [None, 1, 3, (0,), (2, 0), (-1, 1), [3]])
def test_forward_intermediates(classifier, images, indices, stop_early):
    with torch.inference_mode():
        every = [*classifier.forward_intermediates(images, intermediates_only=True)]
        final, maps = classifier.forward_intermediates(images, indices=indices, stop_early=stop_early)
        alone = classifier.forward_intermediates(images, indices, False, stop_early, "NCHW", True)
        features = classifier.forward_features(images)
    chosen = range(5) if indices is None else range(5 - indices, 5) if isinstance(indices, int) else indices
    for found, again, index in zip(maps, alone, chosen, strict=True):
        torch.testing.assert_close(found, every[index], rtol=0, atol=0)
        torch.testing.assert_close(again, every[index], rtol=0, atol=0)
    last = every[max(index % 5 for index in chosen)] if stop_early else features
    torch.testing.assert_close(final, last, rtol=0, atol=0)
    torch.testing.assert_close(every[-1], features, rtol=0, atol=0)


@pytest.mark.parametrize("indices", [3, (0,), (2, 0), (-1, 1)])
def test_scripted_getter(images, indices):
    """timm's ``feature_cls="getter"`` calls ``forward_intermediates``."""
    network = timm.create_model(SMALL, features_only=True, feature_cls="getter", out_indices=indices).eval()
    scripted = torch.jit.script(network)
    with torch.inference_mode():
        for expected, found in zip(network(images), scripted(images), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_stopping_early_computes_nothing_more(classifier, images):
    ran = []
    hooks = [stage.register_forward_hook(lambda *_: ran.append(1)) for stage in classifier.trunk.stages]
    hooks += [
        stage.block.register_forward_hook(lambda *_: ran.append(2)) for stage in classifier.trunk.stages
    ]
    with torch.inference_mode():
        classifier.forward_intermediates(images, (1,), stop_early=True)
    for hook in hooks:
        hook.remove()
    assert ran == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"indices": 0}, "indices=0 must be from 1 to 5"),
        ({"indices": 6}, "indices=6 must be from 1 to 5"),
        ({"indices": (5,)}, "must be distinct and from"),
        ({"indices": ()}, "must be distinct and from"),
        ({"output_fmt": "NLC"}, "output_fmt='NLC' is unknown; allowed: NCHW"),
    ],
)
def test_invalid_intermediates(classifier, images, arguments, message):
    with pytest.raises(ValueError, match=message):
        classifier.forward_intermediates(images, **arguments)


@pytest.mark.parametrize("indices", [1, (4,), (1, 2), (0,), (-3,)])
@pytest.mark.parametrize("prune_head", [True, False])
@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68"])
def test_pruning(name, indices, prune_head, images):
    torch.manual_seed(0)
    network = create_model(name, num_classes=5).eval()
    with torch.inference_mode():
        every = network.forward_intermediates(images, intermediates_only=True)
        kept = network.prune_intermediate_layers(indices, prune_head=prune_head)
        last = max(kept)
        final, maps = network.forward_intermediates(images, kept)
        for found, index in zip(maps, kept, strict=True):
            torch.testing.assert_close(found, every[index], rtol=0, atol=0)
        torch.testing.assert_close(final, every[last], rtol=0, atol=0)
        assert len(network.feature_info) == last + 1
        assert network.num_features == network.head_hidden_size == every[last].shape[1]
        headless = prune_head or last < 4
        assert network.num_classes == (0 if headless else 5)
        assert network(images).shape == (2, network.num_features if headless else 5)
    # what is left is what a short trunk has
    short = create_model(name, features_only=True, out_indices=(last,))
    assert [*network.trunk.state_dict()] == [*short.state_dict()]
    assert network.trunk.channels == short.channels
    assert network.trunk.strides == short.strides
    assert network.trunk.official_prefixes == short.official_prefixes
    assert network.trunk.arch == short.arch


def test_get_classifier(classifier):
    assert classifier.get_classifier() is classifier.fc
    assert classifier.get_classifier(name_only=True) == "fc"
    assert classifier.get_submodule("fc") is classifier.fc


def test_global_pool_is_told_as_timm_asks():
    network = create_model(SMALL, num_classes=3, global_pool="avg")
    assert network.global_pool == "avg"
    network.reset_classifier(0, "")
    assert network.global_pool == ""
    network.reset_classifier(4)
    assert network.global_pool == "avg"
    assert isinstance(network.pool, nn.AdaptiveAvgPool2d)


@pytest.mark.parametrize("create", [create_model, timm.create_model])
@pytest.mark.parametrize(
    "options",
    [{"num_classes": 3}, {"drop_rate": 0.3}, {"drop_rate": float("nan")}, {"global_pool": "avg"}],
)
def test_feature_maps_have_no_head(create, options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} cannot be given with features_only$"):
        create(SMALL, features_only=True, **options)


@pytest.mark.parametrize("create", [create_model, timm.create_model])
def test_feature_maps_take_what_says_that_there_is_no_head(create):
    options = {"num_classes": 0, "drop_rate": 0.0, "global_pool": ""}
    trunk = create(SMALL, features_only=True, **options)
    assert [*trunk.state_dict()] == [*create(SMALL, features_only=True).state_dict()]


def test_feature_maps_of_a_classifier_that_timm_saved(tmp_path, images):
    """timm writes the classifier's options beside its weights and gives them back, also for feature maps."""
    options = {"num_classes": 3, "drop_rate": 0.3}
    network = timm.create_model(SMALL, **options)
    config = {"architecture": SMALL, "model_args": options, "pretrained_cfg": {"num_classes": 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    source = f"local-dir:{tmp_path}"
    trunk = timm.create_model(source, pretrained=True, features_only=True)
    expected = network.eval().forward_intermediates(images, intermediates_only=True)
    torch.testing.assert_close(in_eval(trunk, images), expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="num_classes cannot be given"):
        timm.create_model(source, features_only=True, num_classes=4)


@pytest.mark.parametrize("options", [{"drop_rate": 0.3}, {"global_pool": "avg"}])
@pytest.mark.parametrize("name", ["fchardnet70", "hardnet_descriptor"])
def test_options_of_classifiers_alone(name, options):
    with pytest.raises(ValueError, match=f"{name}.* is no classifier: {next(iter(options))} cannot be given"):
        create_model(name, **options)


def test_gradient_checkpointing(images):
    torch.manual_seed(0)
    plain, saving = (create_model(SMALL, num_classes=3, drop_rate=0.0) for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    saving.set_grad_checkpointing()
    for network in (plain, saving):
        network.train()(images).square().mean().backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(plain.buffers(), saving.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    saving.set_grad_checkpointing(False)
    assert not saving.trunk.with_cp


def depths(network: nn.Module, groups: dict[int, list[str]]) -> list[list[int]]:
    """For each group, the places of its parameters in the order in which the network uses them."""
    parts = ("trunk.stem.", "trunk.stem_down.", "trunk.stages.", "fc.")
    keys = [key for part in parts for key, _ in network.named_parameters() if key.startswith(part)]
    order = {key: place for place, key in enumerate(keys)}
    return [sorted(order[key] for key in groups[group]) for group in sorted(groups)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("coarse", [False, True])
def test_parameter_groups_are_ordered_by_depth(name, coarse):
    with torch.device("meta"):
        network = create_model(name)
    groups = timm.models.group_parameters(network, network.group_matcher(coarse))
    assert sorted(key for keys in groups.values() for key in keys) == sorted(
        key for key, _ in network.named_parameters()
    )
    places = [place for group in depths(network, groups) for place in group]
    assert places == sorted(places)
    assert all(key.startswith("trunk.stem") for key in groups[0])
    assert groups[max(groups)] == ["fc.weight", "fc.bias"]
    layers = sum(stage.layers for stage in ARCHS[name].stages)
    assert len(groups) == 2 + (len(ARCHS[name].stages) if coarse else layers)


def test_timms_optimizers():
    from timm.optim import create_optimizer_v2

    network = create_model(SMALL, num_classes=3)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    parameters = dict(network.named_parameters())
    assert len(scale) == len(parameters)
    assert scale[id(network.fc.weight)] == 1
    stages = [scale[id(stage.block.layers[0].layer1.conv.weight)] for stage in network.trunk.stages]
    assert stages == sorted(stages)
    assert {decay[id(p)] for p in parameters.values() if p.ndim == 1} == {0.0}
    assert {decay[id(p)] for p in parameters.values() if p.ndim > 1} == {0.05}
    assert network.no_weight_decay() == set()


def test_feature_info_is_that_of_timm(classifier):
    theirs = timm.models.FeatureInfo([dict(info) for info in classifier.feature_info], (1, 3))
    trunk = create_model("hardnet68", features_only=True, out_indices=(1, 3))
    own = trunk.feature_info
    assert own.info[0]["num_chs"] == theirs.info[0]["num_chs"]
    assert own.out_indices == theirs.out_indices == (1, 3)
    assert [info["index"] for info in own.info] == [0, 1, 2, 3]
    for method in ("channels", "reduction"):
        for index in (None, 2, -1, [0, 2], (3, 1)):
            if index == -1:
                continue  # the trunk ends at its last map
            assert getattr(own, method)(index) == getattr(theirs, method)(index)
    assert own.get("num_chs") == theirs.get("num_chs")
    keys = ["num_chs", "reduction"]
    assert own.get_dicts(keys) == theirs.get_dicts(keys)
    assert own.get_dicts(keys, 2) == theirs.get_dicts(keys, 2)
    assert own.get_dicts(keys, [0, 3]) == theirs.get_dicts(keys, [0, 3])
    assert [info["module"] for info in own] == own.module_name()
    assert len(own) == 2


def test_a_classifier_without_a_name_has_no_config():
    assert not hasattr(HarDNetClassifier(ARCHS[SMALL]), "pretrained_cfg")


def test_timms_utilities(images):
    network = timm.create_model(SMALL, num_classes=3)
    average = timm.utils.ModelEmaV3(network)
    average.update(network)
    assert in_eval(average.module, images).shape == (2, 3)
    expected = in_eval(network, images)
    timm.utils.model.freeze_batch_norm_2d(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert_parity(in_eval(network, images), expected)


# --- segmentation-models-pytorch

DECODERS = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
]


@pytest.fixture(scope="module")
def smp():
    return pytest.importorskip(
        "segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed"
    )


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_smp_decoders(smp, decoder, name):
    torch.manual_seed(0)
    network = getattr(smp, decoder)(f"tu-{name}", encoder_weights=None, classes=3).train()
    side = 128 if decoder == "PAN" else 64
    out = network(torch.randn(2, 3, side, side))
    assert out.shape == (2, 3, side, side)
    out.square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_smp_encoders(smp, name, output_stride):
    encoder = smp.encoders.get_encoder(f"tu-{name}", weights=None, output_stride=output_stride).eval()
    maps = in_eval(encoder, torch.zeros(1, 3, 64, 64))
    assert [m.shape[1] for m in maps] == encoder.out_channels
    assert [64 // m.shape[2] for m in maps] == [min(s, output_stride) for s in (1, 2, 4, 8, 16, 32)]


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("in_channels", [1, 4])
def test_smp_depths_and_channels(smp, depth, in_channels):
    network = smp.Unet(
        "tu-hardnet39ds",
        encoder_weights=None,
        encoder_depth=depth,
        in_channels=in_channels,
        decoder_channels=(64, 32, 16, 8)[:depth],
    )
    assert in_eval(network, torch.zeros(1, in_channels, 64, 64)).shape == (1, 1, 64, 64)


def test_smp_encoder_weights(smp):
    network = smp.Unet(f"tu-{TAG}", encoder_weights=True)
    own = create_model(SMALL, pretrained="tiny_imagenet10").trunk.state_dict()
    theirs = network.encoder.model.model.trunk.state_dict()
    assert all(torch.equal(theirs[key], value) for key, value in own.items())
    parameters = smp.encoders.get_preprocessing_params(f"tu-{TAG}")
    assert (parameters["mean"], parameters["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


# --- mmsegmentation


@pytest.fixture(scope="module")
def timm_backbone():
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed")
    import_module("hardnet_suite.openmm")
    return import_module("mmseg.models.backbones").TIMMBackbone


@pytest.mark.parametrize("name", ["hardnet39ds", "hardnet68"])
def test_mmseg_backbone(timm_backbone, name, images):
    backbone = timm_backbone(name, pretrained=False, output_stride=8, out_indices=(1, 2, 3, 4))
    assert [64 // m.shape[2] for m in in_eval(backbone, images)] == [4, 8, 8, 8]


def test_mmseg_backbone_keeps_its_weights(timm_backbone, images):
    backbone = timm_backbone(TAG, pretrained=True)
    backbone.init_weights()
    expected = timm.create_model(TAG, pretrained=True, features_only=True)
    for found, own in zip(in_eval(backbone, images), in_eval(expected, images), strict=True):
        torch.testing.assert_close(found, own, rtol=0, atol=0)


def test_mmseg_backbone_in_a_segmentor(timm_backbone):
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS

    def build(cfg):
        with DefaultScope.overwrite_default_scope("mmseg"):  # whatever an earlier test has left
            return MODELS.build(cfg)

    norm = {"type": "BN"}
    info = timm.create_model("hardnet39ds", features_only=True, out_indices=(3, 4)).feature_info
    segmentor = build(
        {
            "type": "EncoderDecoder",
            "backbone": {
                "type": "TIMMBackbone",
                "model_name": "hardnet39ds",
                "pretrained": False,
                "output_stride": 8,
                "out_indices": (3, 4),
            },
            "decode_head": {
                "type": "ASPPHead",
                "in_channels": info.channels()[-1],
                "in_index": 1,
                "channels": 16,
                "dilations": (1, 2, 4),
                "num_classes": 3,
                "norm_cfg": norm,
                "align_corners": False,
            },
            "test_cfg": {"mode": "whole"},
        }
    )
    logits = segmentor.eval().encode_decode(
        torch.zeros(1, 3, 64, 64), [{"img_shape": (64, 64), "ori_shape": (64, 64)}]
    )
    assert logits.shape == (1, 3, 64, 64)


# --- transformers


@pytest.fixture(scope="module")
def transformers():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    if not hasattr(transformers, "TimmBackbone"):
        pytest.skip("this transformers has no TimmBackbone")
    return transformers


@pytest.mark.parametrize("name", NAMES)
def test_transformers_backbone(transformers, name, images):
    config = transformers.TimmBackboneConfig(backbone=name, out_indices=[1, 3, 4], output_stride=16)
    backbone = transformers.TimmBackbone(config)
    out = in_eval(backbone, images)
    assert [64 // m.shape[2] for m in out.feature_maps] == [4, 16, 16]
    assert [m.shape[1] for m in out.feature_maps] == backbone.channels
    with torch.inference_mode():
        every = backbone(images, output_hidden_states=True)
    assert [64 // m.shape[2] for m in every.hidden_states] == [2, 4, 8, 16, 16]
    for found, expected in zip(every.feature_maps, out.feature_maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with torch.inference_mode():  # as before
        assert len(backbone(images).feature_maps) == 3


def test_transformers_backbone_keeps_its_weights(transformers, images):
    """transformers 5 resets the running statistics of pretrained timm backbones."""
    backbone = transformers.TimmBackbone.from_pretrained(TAG, out_indices=[2, 4])
    expected = timm.create_model(TAG, pretrained=True, features_only=True, out_indices=(2, 4))
    for found, own in zip(in_eval(backbone, images).feature_maps, in_eval(expected, images), strict=True):
        torch.testing.assert_close(found, own, rtol=0, atol=0)


def test_transformers_classifier(transformers, images):
    if not hasattr(transformers, "TimmWrapperForImageClassification"):
        pytest.skip("this transformers has no TimmWrapper")
    config = transformers.TimmWrapperConfig(architecture=SMALL, num_labels=5)
    network = transformers.TimmWrapperForImageClassification(config)
    assert in_eval(network, images).logits.shape == (2, 5)


# --- the documentation

SECTION = "## timm, smp and transformers\n"
BACKBONE = (Path(__file__).resolve().parents[1] / "docs/backbone.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", BACKBONE.partition(SECTION)[2].partition("\n## ")[0], re.DOTALL)


def test_the_section_has_examples():
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_examples_run(block, tmp_path, monkeypatch):
    """Each by itself, where the packages that it imports are installed."""
    for node in ast.walk(ast.parse(block)):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for package in {module.partition(".")[0] for module in modules}:
            pytest.importorskip(package, reason=f"{package} is not installed")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/backbone.md", "exec"), {})
