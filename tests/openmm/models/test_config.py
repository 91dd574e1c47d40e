"""One architecture per config: derived configs, options, and what contradicts the table."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, DefaultScope

import hardnet_suite.openmm.segmentation  # noqa: F401
from hardnet_suite.config_names import OWN_CONFIGS
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS, build_network
from hardnet_suite.openmm.models.config import settle_arch
from hardnet_suite.openmm.run.configs import load_config

SWITCHES = [
    ("ssd512_hardnet68", "ssd512_hardnet85"),
    ("ssd512_hardnet68", "ssd320_hardnet39ds"),
    ("ssd512_hardnet85", "ssd224_hardnet29"),
    ("demo_ssd224_shapes", "ssd512_hardnet68"),
    ("centernet_hardnet85", "centernet_hardnet68"),
    ("centernet_hardnet68", "centernet_hardnet85"),
    ("fchardnet70_camvid", "fchardnet70"),
    ("hardnet39ds_tiny_imagenet10", "hardnet85"),
    ("hardnet68_imagenet_modern", "hardnet68ds"),
]


def derived(folder, base: str, *lines: str, name: str = "mine.py"):
    """A config file that derives from ``base``, a name of the suite's configs or a path."""
    path = OWN_CONFIGS / f"{base}.py" if (OWN_CONFIGS / f"{base}.py").is_file() else base
    file = folder / name
    file.write_text("\n".join([f'_base_ = "{path}"', *lines]) + "\n")
    return file


def build(cfg: Config) -> torch.nn.Module:
    cfg.model.init_cfg = None
    return MODELS.build(cfg.model).eval()


def maps_of(model: torch.nn.Module, side: int):
    """The model's raw output for one black image."""
    images = torch.zeros(1, 3, side, side)
    with torch.inference_mode():
        if hasattr(model, "network"):
            return model.network(images)
        head = model.bbox_head if hasattr(model, "bbox_head") else model.decode_head
        return head(model.extract_feat(images))


@pytest.mark.parametrize(("base", "arch"), SWITCHES)
def test_one_line_switches_the_architecture(base, arch, tmp_path):
    cfg = load_config(derived(tmp_path, base, f'arch = "{arch}"'))
    assert cfg.arch == cfg.model.arch == arch
    other_line = load_config(derived(tmp_path, base, f'model = dict(arch="{arch}")'))
    assert other_line.to_dict() == cfg.to_dict()
    model = build(cfg)
    classes = next(iter(_class_counts(cfg.model)))
    expected = build_network(arch, num_classes=classes)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(parameter.numel() for parameter in expected.parameters())
    if "512" not in arch:  # whose maps take seconds
        maps_of(model, getattr(ARCHS[arch], "size", 64))


def _class_counts(node) -> set[int]:
    if isinstance(node, dict):
        own = {node["num_classes"]} if "num_classes" in node else set()
        return own.union(*map(_class_counts, node.values()))
    return set()


@pytest.mark.parametrize(("base", "arch"), SWITCHES)
def test_openmmlabs_own_loading_takes_the_models_line(base, arch, tmp_path):
    cfg = Config.fromfile(derived(tmp_path, base, f'model = dict(arch="{arch}")'))
    model = build(cfg)
    backbone = model.network.trunk if hasattr(model, "network") else model.backbone.trunk
    with torch.device("meta"):
        expected = build_network(arch).trunk
    assert list(backbone.state_dict()) == list(expected.state_dict())


def test_a_models_scoped_name_is_its_name(tmp_path):
    scoped = "model = dict(type='mmengine.HarDNetSSD')"
    cfg = load_config(derived(tmp_path, "ssd512_hardnet68", f'arch = "ssd224_hardnet29"\n{scoped}'))
    assert cfg.arch == cfg.model.arch == "ssd224_hardnet29"
    assert cfg.size == 224
    with pytest.raises(UserError, match=r"does not fit mmengine\.HarDNetSSD"):
        load_config(derived(tmp_path, "ssd512_hardnet68", f'arch = "fchardnet70"\n{scoped}'))


@pytest.mark.parametrize(("base", "arch"), [pair for pair in SWITCHES if "ssd" in pair[0]])
def test_an_ssds_images_follow_its_row(base, arch, tmp_path):
    cfg = load_config(derived(tmp_path, base, f'arch = "{arch}"'))
    size = ARCHS[arch].size
    assert cfg.size == size
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        (resize,) = [step for step in cfg[loader].dataset.pipeline if step.type == "Resize"]
        assert tuple(resize.scale) == (size, size)


@pytest.mark.parametrize("key", ["arch", "model.arch"])
def test_an_option_switches_the_architecture(key):
    cfg = load_config("ssd512_hardnet68", {key: "ssd224_hardnet29"})
    assert cfg.arch == cfg.model.arch == "ssd224_hardnet29"
    assert cfg.size == 224


@pytest.mark.parametrize(("base", "arch"), SWITCHES)
def test_a_runner_that_settles_nothing_refuses_the_top_line_alone(base, arch, tmp_path):
    cfg = Config.fromfile(derived(tmp_path, base, f'arch = "{arch}"'))
    former = cfg.model.arch
    hook = HOOKS.build({"type": "ResumableCheckpointHook"})
    if former != arch:
        with pytest.raises(UserError, match=rf"mine.py: arch='{arch}', but .* model.arch='{former}'"):
            hook.before_run(SimpleNamespace(cfg=cfg))
    cfg.model.arch = arch
    hook.before_run(SimpleNamespace(cfg=cfg))


def test_the_last_word_of_a_chain_counts(tmp_path):
    first = derived(tmp_path, "ssd512_hardnet68", 'arch = "ssd512_hardnet85"', name="first.py")
    same = derived(tmp_path, str(first), "randomness = dict(seed=1)", name="same.py")
    assert load_config(same).model.arch == "ssd512_hardnet85"
    last = derived(tmp_path, str(same), 'model = dict(arch="ssd224_hardnet29")', name="last.py")
    assert load_config(last).arch == "ssd224_hardnet29"
    again = derived(tmp_path, "last.py", 'arch = "ssd320_hardnet39ds"', name="again.py")
    cfg = load_config(again)
    assert cfg.arch == cfg.model.arch == "ssd320_hardnet39ds"


def test_the_older_form_with_an_arch_in_every_part_still_loads(tmp_path):
    lines = (
        'arch = "ssd224_hardnet29"',
        "model = dict(backbone=dict(arch=arch, out_indices=(2, 3)),",
        "    neck=dict(arch=arch, in_channels=[128, 192]),",
        "    bbox_head=dict(arch=arch, in_channels=[128, 192, 256, 256, 256, 256], num_classes=2))",
    )
    model = build(load_config(derived(tmp_path, "ssd512_hardnet68", *lines)))
    assert (model.arch, model.bbox_head.num_classes) == ("ssd224_hardnet29", 2)


@pytest.mark.parametrize(
    ("base", "lines", "message"),
    [
        (
            "ssd512_hardnet68",
            ['arch = "ssd512_hardnet85"', 'model = dict(arch="ssd224_hardnet29")'],
            "mine.py: arch='ssd512_hardnet85', but model.arch='ssd224_hardnet29'",
        ),
        ("ssd512_hardnet68", ['arch = "ssd512_hardnet86"'], "mine.py: arch='ssd512_hardnet86' is unknown"),
        (
            "ssd512_hardnet68",
            ['arch = "fchardnet70"'],
            "arch='fchardnet70' does not fit HarDNetSSD, which takes rfb512_hardnet68, rfb512_hardnet85, ",
        ),
        ("centernet_hardnet85", ['arch = "hardnet85"'], "does not fit HarDNetCenterNet"),
        ("fchardnet70_camvid", ['model = dict(arch="hardnet68")'], "does not fit HarDNetSegmentor"),
        ("hardnet68_imagenet", ['arch = "ssd512_hardnet68"'], "does not fit ImageClassifier"),
    ],
)
def test_contradictions_of_a_config_are_one_clear_error(base, lines, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        load_config(derived(tmp_path, base, *lines))
    assert "\n" not in str(caught.value)


CONTRADICTIONS = [
    ("ssd512_hardnet68", {"neck": {"in_channels": [320, 720]}}, r"neck.in_channels=\[320, 720\]"),
    ("ssd512_hardnet68", {"bbox_head": {"in_channels": [320, 640]}}, "bbox_head.in_channels"),
    ("ssd512_hardnet68", {"backbone": {"out_indices": (1, 2)}}, r"backbone.out_indices=\[1, 2\]"),
    ("ssd512_hardnet68", {"backbone": {"tap": "block"}}, "backbone.tap='block'"),
    ("ssd512_hardnet85", {"neck": {"arch": "ssd512_hardnet68"}}, "model.neck.arch='ssd512_hardnet68'"),
    ("ssd512_hardnet68", {"backbone": {"type": "mmdet.ResNet", "depth": 18}}, "expected HarDNet"),
    ("centernet_hardnet85", {"bbox_head": {"in_channels": 162}}, "bbox_head.in_channels=162"),
    ("centernet_hardnet85", {"neck": {"in_channels": [328, 654]}}, "neck.in_channels"),
    ("centernet_hardnet68", {"backbone": {"tap": "transition"}}, "backbone.tap='transition'"),
    ("fchardnet70_camvid", {"decode_head": {"channels": 64}}, "decode_head.channels=64"),
    ("fchardnet70_camvid", {"decode_head": {"in_channels": [48, 78]}}, "decode_head.in_channels"),
    ("fchardnet70_camvid", {"backbone": {"out_indices": (0, 1)}}, "backbone.out_indices"),
]


@pytest.mark.parametrize(("base", "change", "message"), CONTRADICTIONS)
def test_what_contradicts_the_table_is_one_clear_error(base, change, message):
    cfg = load_config(base)
    cfg.merge_from_dict({"model": change})
    with pytest.raises(UserError, match=message) as caught:
        build(cfg)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("base", ["ssd512_hardnet68", "centernet_hardnet68", "fchardnet70_camvid"])
def test_what_repeats_the_table_is_accepted(base):
    cfg = load_config(base)
    for part in ("backbone", "neck", "bbox_head", "decode_head"):
        if part in cfg.model:
            cfg.model[part].arch = cfg.arch
    cfg.model.arch = None
    assert build(cfg).arch == cfg.arch


def test_without_any_arch_the_error_says_what_is_missing():
    cfg = load_config("ssd512_hardnet68")
    cfg.model.arch = None
    with pytest.raises(UserError, match=r"model.arch is missing: expected the name of an SSD"):
        build(cfg)


def test_other_models_keep_their_own_arch():
    cfg = Config({"arch": "mine", "model": {"type": "RetinaNet", "backbone": {"arch": "hardnet68"}}})
    settle_arch(cfg)
    assert cfg.arch == "mine"
    assert "arch" not in cfg.model


def test_an_arch_of_the_suite_is_no_others_arch():
    """As docs/backbone.md has it: the config would be taken for that of the suite's classifier."""
    cfg = Config({"arch": "hardnet68", "model": {"type": "RetinaNet", "backbone": {"arch": "hardnet68"}}})
    settle_arch(cfg)
    assert cfg.get("arch") is None
    assert cfg.model.backbone.arch == "hardnet68"


def test_other_options_of_the_parts_are_kept():
    cfg = load_config("ssd512_hardnet68")
    cfg.model.backbone.update(frozen_stages=1, norm_cfg={"type": "SyncBN"}, norm_eval=True)
    backbone = build(cfg).backbone
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in backbone.modules())


@pytest.mark.parametrize("base", ["ssd512_hardnet68", "centernet_hardnet68", "fchardnet70_camvid"])
@pytest.mark.parametrize("scope", ["mmengine", "mmdet", "mmseg"])
def test_models_build_under_any_default_scope(base, scope):
    cfg = load_config(base)
    with DefaultScope.overwrite_default_scope(scope):
        build(cfg)
        assert DefaultScope.get_current_instance().scope_name == scope


def test_skeletons_of_networks_draw_no_random_numbers():
    from hardnet_suite.openmm.models import arch

    arch.trunk_channels.cache_clear()
    before = torch.get_rng_state()
    arch.trunk_channels("centernet_hardnet68")
    assert torch.equal(torch.get_rng_state(), before)
