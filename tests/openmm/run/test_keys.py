"""Keys of a config that nothing reads are errors or warnings that name the nearest key."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from toy_runs import toy_config

from hardnet_suite.config_names import OWN_CONFIGS, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run import runner as run
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.keys import require_known_keys, require_supported, without_unread

BASE = OWN_CONFIGS / "demo_ssd224_shapes.py"


def config(folder, text, base=BASE, name="mine.py"):
    path = folder / name
    path.write_text(f'_base_ = "{base}"\n{text}\n')
    return path


@pytest.mark.parametrize("name", own_configs())
def test_the_suites_own_configs_pass(name, tmp_path):
    cfg = load_config(name)
    require_known_keys(cfg, own_configs()[name], skip=tmp_path)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train_dataloder.batch_size", "nothing reads train_dataloder; did you mean train_dataloader"),
        ("optim_wraper.optimizer.lr", "did you mean optim_wrapper"),
        ("evaluation.interval", "nothing reads evaluation"),
        ("lr", "nothing reads lr"),
        ("load_form", "did you mean load_from"),
        ("seed", "nothing reads seed"),
        ("data_preprocessor.mean", "so that this has no effect; set model.data_preprocessor.mean"),
        ("data_preprocessor", "so that this has no effect; set model.data_preprocessor"),
        ("size", "size only serves to build other entries"),
        ("classes", "classes only serves"),
        ("train_pipeline.0.type", "train_pipeline only serves"),
        ("data_root", "use --data-root"),
        ("train_cfg.max_epochs.x", r"train_cfg.max_epochs is 4, which has no entry 'x'"),
        ("model.type.name", "model.type is 'HarDNetSSD', which has no entry 'name'"),
        ("param_scheduler.7.end", "param_scheduler is a list of 2, expected an index, got '7'"),
        ("param_scheduler.end", "expected an index, got 'end'"),
        ("train_dataloader", "train_dataloader is a dict in the config"),
        ("model.backbone", "model.backbone is a dict in the config"),
    ],
)
def test_options_that_nothing_would_read(option, message):
    with pytest.raises(UserError, match=message) as error:
        load_config("demo_ssd224_shapes", {option: 3})
    assert option in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("train_dataloader.batchsize", "train_dataloader.batch_size"),
        ("optim_wrapper.optimizer.weight_deccay", "optim_wrapper.optimizer.weight_decay"),
        ("param_scheduler.0.ende", "param_scheduler.0.end"),
        ("train_cfg.max_epoch", "train_cfg.max_epochs"),
    ],
)
def test_an_added_entry_is_a_warning_with_the_nearest(option, nearest):
    lines = []
    cfg = load_config("demo_ssd224_shapes", {option: 3}, warn=lines.append)
    (line,) = lines
    assert option in line
    assert f"did you mean {nearest}?" in line
    node = cfg
    for part in option.split("."):
        node = node[int(part) if part.isdigit() else part]
    assert node == 3


@pytest.mark.parametrize(
    "options",
    [
        {"train_dataloader.batch_size": 3, "train_cfg.max_epochs": 1},
        {"load_from": "x.pth", "randomness.seed": 3, "work_dir": "w"},
        {"param_scheduler.0.end": 3, "custom_hooks": []},
        {"visualizer": None, "param_scheduler": None},
        {"weights_tag": "published"},
    ],
)
def test_what_is_read_passes_in_silence(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_config("demo_ssd224_shapes", options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train_dataloder = dict(batch_size=4)",
            "nothing reads train_dataloder.*did you mean train_dataloader",
        ),
        ("optimizer_wrapper = dict()", "did you mean optim_wrapper"),
        ("max_epochs = 3", "nothing reads max_epochs"),
        ("size = 320", "nothing reads size .a _base_ file is evaluated before it"),
        ("classes = ('a', 'b')", "nothing reads classes"),
        ("data_root = 'elsewhere/'", "no path of the file is made of it; pass --data-root"),
        ("a, train_cgf = 1, 2\nload_from = str(a)", "did you mean train_cfg"),
    ],
)
def test_variables_of_a_file_that_nothing_reads(tmp_path, text, message):
    path = config(tmp_path, text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "epochs = 3\ntrain_cfg = dict(max_epochs=epochs)",
        "_note = 'for the record'",
        "size = _base_.size\ntest_dataloader = dict(batch_size=size)",
        "import os\nfrom math import pi\nload_from = os.path.join('a', str(pi))",
        "data_root = 'elsewhere/'\nval_evaluator = dict(ann_file=data_root + 'a.json')",
        "data_root = 'elsewhere/'\nval_evaluator = dict(ann_file='elsewhere/a.json')",
        "custom_imports = dict(imports=['hardnet_suite.openmm'], allow_failed_imports=False)",
        "tta_model = dict(type='mmdet.DetTTAModel')",
    ],
)
def test_variables_that_are_read(tmp_path, text):
    load_config(config(tmp_path, text))


def test_variables_between_files(tmp_path):
    middle = config(tmp_path, "epochs = 3\nunused = 4", name="middle.py")
    load_config(config(tmp_path, "train_cfg = dict(max_epochs=_base_.epochs)", middle))
    config(tmp_path, "train_dataloder = dict()", name="middle.py")
    with pytest.raises(UserError, match=r"middle.py: nothing reads train_dataloder"):
        load_config(config(tmp_path, "train_cfg = dict(max_epochs=3)", middle))


@pytest.mark.parametrize(("suffix", "text"), [("json", '{"modle": {}}'), ("yaml", "modle: {}")])
def test_other_formats(tmp_path, suffix, text):
    path = tmp_path / f"mine.{suffix}"
    path.write_text(text)
    with pytest.raises(UserError, match="did you mean model"):
        load_config(path)


@pytest.mark.parametrize("name", ["demo_ssd224_shapes", "fchardnet70_camvid", "hardnet68_imagenet"])
def test_reading_a_config_changes_no_default_scope(name):
    with DefaultScope.overwrite_default_scope("mmengine"):
        before = DefaultScope.get_current_instance()
        load_config(name)
        assert DefaultScope.get_current_instance() is before


def test_a_data_preprocessor_of_a_model_that_has_its_own(tmp_path):
    path = config(tmp_path, "data_preprocessor = dict(mean=[1.0, 2.0, 3.0])")
    with pytest.raises(
        UserError, match=r"data_preprocessor\.mean has no effect.*set model\.data_preprocessor\.mean"
    ):
        load_config(path)
    text = "data_preprocessor = dict(mean=[1.0, 2.0, 3.0])\nmodel = dict(data_preprocessor=data_preprocessor)"
    cfg = load_config(config(tmp_path, text))
    assert cfg.model.data_preprocessor.mean == [1.0, 2.0, 3.0]
    assert "data_preprocessor" not in cfg  # written to a work dir, it would contradict later options
    assert cfg.model.data_preprocessor.type == load_config(BASE).model.data_preprocessor.type


def test_the_variable_of_which_a_base_makes_the_data_preprocessor_of_its_model(tmp_path):
    path, own = tmp_path / "config.py", "model = dict(data_preprocessor=dict(size=(96, 96)))\n"
    path.write_text(f"_base_ = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'\n{own}")
    cfg = load_config(path)
    assert cfg.model.data_preprocessor.size == (96, 96)
    assert cfg.model.data_preprocessor.bgr_to_rgb is True  # of the base
    assert "data_preprocessor" not in cfg
    (tmp_path / "derived.py").write_text("_base_ = 'config.py'\n")
    assert load_config(tmp_path / "derived.py").model.data_preprocessor.size == (96, 96)

    path.write_text(f"{path.read_text()}data_preprocessor = dict(size=(64, 64))\n")
    for name in ("config.py", "derived.py"):
        with pytest.raises(UserError, match=r"set model\.data_preprocessor\.size"):
            load_config(tmp_path / name)


def test_a_data_preprocessor_beside_a_model_without_one(tmp_path):
    text = """
arch = "ssd512_hardnet68"
model = dict(type="SSD", arch=arch)
data_preprocessor = dict(type="DetDataPreprocessor", mean=[1.0, 2.0, 3.0], std=[1.0, 1.0, 1.0])
"""
    path = tmp_path / "alone.py"
    path.write_text(text)
    assert load_config(path).model.data_preprocessor.mean == [1.0, 2.0, 3.0]
    path.write_text(text.replace("data_preprocessor =", "_unused ="))
    cfg = load_config(path, {"data_preprocessor.mean": [4.0, 5.0, 6.0]})
    assert cfg.model.data_preprocessor.mean == [4.0, 5.0, 6.0]


@pytest.mark.parametrize("text", ["find_unused_parameters = True", 'sync_bn = "torch"'])
def test_options_of_ranks_are_read_and_kept_in_the_copy(tmp_path, text):
    name = text.partition(" ")[0]
    base = config(tmp_path, text)
    for path in (base, config(tmp_path, "", base, "child.py")):
        cfg = load_config(path)
        require_supported(cfg)
        assert without_unread(cfg)[name] == cfg[name]
    assert load_config(BASE, {name: True})[name] is True


@pytest.mark.parametrize("options", [{}, {"test_dataloader.dataset.pipeline.1.scale": (64, 64)}])
def test_the_copy_of_a_run_has_the_test_pipeline(tmp_path, options):
    """For mmseg's ``inference_model``: what the run tests with, also where options changed that."""
    steps = 'test_pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(96, 96))]'
    data = "test_dataloader = dict(dataset=dict(_delete_=True, type='A', pipeline=test_pipeline))"
    cfg = load_config(config(tmp_path, f"{steps}\n{data}"), options)
    copy = without_unread(cfg)
    assert copy.test_pipeline == cfg.test_dataloader.dataset.pipeline
    assert copy.test_pipeline[1].scale == ((64, 64) if options else (96, 96))
    path = tmp_path / "copy.py"
    path.write_text(copy.pretty_text)
    assert load_config(path).test_pipeline == copy.test_pipeline
    with pytest.raises(UserError, match="nothing reads test_pipeline"):  # without effect
        load_config(config(tmp_path, "test_pipeline = []", path, "child.py"))
    assert "test_pipeline" not in without_unread(Config({"test_dataloader": cfg.test_dataloader}))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_wrapper_cfg": {"type": "MMFullyShardedDataParallel"}}, "model_wrapper_cfg is not supported"),
        (
            {"activation_checkpointing": ["backbone"]},
            "activation_checkpointing is not supported: .*batch_size",
        ),
        ({"efficient_conv_bn_eval": "backbone"}, "efficient_conv_bn_eval is not supported"),
        ({"find_unused_parameters": "yes"}, "find_unused_parameters is 'yes', expected True or False"),
        ({"sync_bn": "mmcv"}, "sync_bn is 'mmcv', expected 'torch' or None"),
    ],
)
def test_a_training_with_what_the_suite_does_not_support_is_refused(toy_train, entries, message):
    with pytest.raises(UserError, match=message):
        toy_train(toy_config(epochs=1, **entries))


def test_what_only_training_reads_is_no_obstacle_to_scoring(tmp_path):
    text = 'activation_checkpointing = None\nmodel_wrapper_cfg = dict(type="MMDistributedDataParallel")'
    assert load_config(config(tmp_path, text)).model_wrapper_cfg


def wrapped_on_the_cpu(monkeypatch, *, trains=True, **entries):
    monkeypatch.setattr(run, "MMDistributedDataParallel", lambda model, **options: options)
    monkeypatch.setattr(run, "get_device", lambda: "cpu")
    loop = {} if trains else None
    runner = SimpleNamespace(distributed=True, cfg=Config(entries), _train_loop=loop)
    return run.SuiteRunner.wrap_model(runner, None, torch.nn.Linear(2, 2))


def test_ranks_on_the_cpu_find_unused_parameters(monkeypatch):
    assert wrapped_on_the_cpu(monkeypatch)["find_unused_parameters"] is False
    assert wrapped_on_the_cpu(monkeypatch, find_unused_parameters=True)["find_unused_parameters"] is True


def test_ranks_on_the_cpu_cannot_synchronize_batch_norm(monkeypatch):
    """torch's layer computes on GPUs alone; in evaluation it is an ordinary one."""
    with pytest.raises(UserError, match="sync_bn synchronizes ranks on GPUs alone"):
        wrapped_on_the_cpu(monkeypatch, sync_bn="torch")
    wrapped_on_the_cpu(monkeypatch, trains=False, sync_bn="torch")
