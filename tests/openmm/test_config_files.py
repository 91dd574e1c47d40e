"""Configs derived from the suite's own, from any folder, and copies of these."""

from __future__ import annotations

import shutil

import pytest

from hardnet_suite.cli import main
from hardnet_suite.config_names import OWN_CONFIGS, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.config_copies import flat_copy, summary
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.keys import is_read


def content(path) -> dict:
    return load_config(path)._cfg_dict.to_dict()


@pytest.mark.parametrize("base", ["hardnet39ds_tiny_imagenet10.py", "hardnet39ds_tiny_imagenet10"])
def test_the_suites_configs_are_bases_from_any_folder(tmp_path, base):
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}\nrandomness = dict(seed=7)\n")
    expected = content("hardnet39ds_tiny_imagenet10") | {"randomness": {"seed": 7}}
    assert content(tmp_path / "mine.py") == expected
    (tmp_path / "next.py").write_text("_base_ = ['mine.py']\nlog_level = 'WARNING'\n")
    assert content(tmp_path / "next.py") == expected | {"log_level": "WARNING"}


def test_a_file_beside_the_config_comes_first(tmp_path):
    (tmp_path / "hardnet39ds_tiny_imagenet10.py").write_text("arch = 'hardnet68'\nmodel = dict(arch=arch)\n")
    (tmp_path / "mine.py").write_text("_base_ = 'hardnet39ds_tiny_imagenet10.py'\n")
    assert content(tmp_path / "mine.py")["arch"] == "hardnet68"


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / "mine.py").write_text("_base_ = 'nothing.py'\n")
    with pytest.raises(UserError, match=r"cannot read the config .*mine\.py: .*nothing\.py"):
        load_config(tmp_path / "mine.py")


@pytest.mark.parametrize("name", own_configs())
def test_a_copied_file_works_where_it_is(tmp_path, name):
    shutil.copyfile(own_configs()[name], tmp_path / "mine.py")
    assert content(tmp_path / "mine.py") == content(name)


@pytest.mark.parametrize("name", own_configs())
def test_a_flat_copy_reads_as_the_same_config(tmp_path, name):
    text = flat_copy(name)
    assert "_base_ =" not in text
    (tmp_path / "mine.py").write_text(text)
    original = load_config(name)
    read = {key: value for key, value in content(name).items() if is_read(original, key)}
    copy = content(tmp_path / "mine.py")
    assert {key: value for key, value in copy.items() if key in read} == read
    assert copy.keys() <= content(name).keys()
    assert {"model", "train_dataloader", "optim_wrapper", "default_hooks"} <= read.keys()
    assert text.splitlines()[0].startswith("# ")
    assert summary(own_configs()[name])


def test_a_copy_keeps_the_comments():
    text = flat_copy("ssd320_hardnet39ds_bccd")
    for line in ("# A microscope slide has no up or down: all flips.", "# Shared by every run:"):
        assert line in text
    assert text.index("all flips.") + 11 == text.index("train_pipeline = [") < text.index("train_dataloader")
    assert text.count("pipeline=train_pipeline") == 1


def test_the_command_lists_prints_and_copies(capsys, tmp_path):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(own_configs())
    assert main(["configs", "demo_ssd224_shapes"]) == 0
    assert capsys.readouterr().out == flat_copy("demo_ssd224_shapes")
    target = tmp_path / "mine.py"
    assert main(["configs", "demo_ssd224_shapes", "--copy", str(target)]) == 0
    assert target.read_text() == flat_copy("demo_ssd224_shapes")
    capsys.readouterr()
    target.write_text("mine")
    assert main(["configs", "demo_ssd224_shapes", "--copy", str(target)]) == 2
    assert f"{target} exists" in capsys.readouterr().err
    assert target.read_text() == "mine"
    for arguments, message in (
        (["nothing"], "no config nothing: there are centernet_hardnet68"),
        (["--copy", "a.py"], "--copy writes one config"),
        (["demo_ssd224_shapes", "--copy", "a.txt"], "expected the name of a Python file"),
    ):
        assert main(["configs", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("base", "model"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "RetinaNet"),
        ("mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py", "EncoderDecoder"),
    ],
)
def test_configs_of_mmdet_and_mmseg_are_bases(tmp_path, recwarn, base, model):
    pytest.importorskip("pkg_resources", reason="mmengine finds packages by it: setuptools < 82")
    (tmp_path / "mine.py").write_text(
        f"_base_ = {base!r}\ncustom_imports = dict(imports=['hardnet_suite.openmm'])\n"
    )
    recwarn.clear()
    assert content(tmp_path / "mine.py")["model"]["type"] == model
    assert not [str(entry.message) for entry in recwarn if "pkg_resources" in str(entry.message)]


def test_reading_leaves_mmengine_as_it_was():
    from mmengine.config import Config

    before = Config._get_cfg_path
    load_config("demo_ssd224_shapes")
    with pytest.raises(UserError):
        load_config(OWN_CONFIGS / "nothing.py")
    assert Config._get_cfg_path is before
