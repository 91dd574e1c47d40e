"""Configs derived from the suite's own, from any folder, and copies of these."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hardnet_suite.cli import main
from hardnet_suite.config_names import OWN_CONFIGS, own_configs
from hardnet_suite.errors import UserError
from hardnet_suite.networks import ARCHS
from hardnet_suite.openmm.run.config_copies import flat_copy, summary
from hardnet_suite.openmm.run.configs import load_config
from hardnet_suite.openmm.run.keys import is_read
from hardnet_suite.run_folders import CHOSEN, DUMPED

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("base", ["HarDNet39DS-Tiny-ImageNet10.py", "hardnet39ds-tiny_imagenet10"])
def test_names_of_bases_in_any_spelling(tmp_path, base):
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}\n")
    assert content(tmp_path / "mine.py") == content("hardnet39ds_tiny_imagenet10")


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("ssd320_hardnet39ds_bcc.py", "did you mean ssd320_hardnet39ds_bccd?"),
        ("zzz.py", "`hardnet-suite configs` lists those of the suite"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coc.py", "did you mean mmdet::retinanet/retinanet_r50"),
        (
            "mmdet::retinanet_r50_fpn_1x_coco.py",
            "did you mean mmdet::retinanet/retinanet_r50_fpn_1x_coco.py?",
        ),
        ("mmdett::a.py", "the package mmdett is not installed"),
    ],
)
@pytest.mark.parametrize("inner", [False, True])
def test_the_nearest_base(tmp_path, base, said, inner):
    (tmp_path / "mine.py").write_text(f"_base_ = {base!r}\n")
    (tmp_path / "outer.py").write_text("_base_ = 'mine.py'\n")
    with pytest.raises(UserError, match=r"cannot read the config .*mine\.py: no base ") as error:
        load_config(tmp_path / ("outer.py" if inner else "mine.py"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


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


def strings(node):
    if isinstance(node, dict | list | tuple):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)
    elif isinstance(node, str):
        yield node


def changed(text, name, value):
    """A copy with another value of a variable; the rest of a tuple over several lines is dropped."""
    new, count = re.subn(
        rf"^{name} = (\((?:[^()]|\n)*\)|.*)", f"{name} = {value!r}", text, flags=re.MULTILINE
    )
    assert count == 1
    return new


@pytest.mark.parametrize("name", own_configs())
def test_variables_of_a_copy_keep_their_effect(tmp_path, name):
    """As docs/custom_data.md says: change data_root, the classes, the size, the network."""
    text = flat_copy(name)
    (tmp_path / "same.py").write_text(text)
    cfg = content(tmp_path / "same.py")

    def read_with(key, value):
        (tmp_path / "mine.py").write_text(changed(text, key, value))
        return content(tmp_path / "mine.py")

    old = cfg["data_root"]
    moved = read_with("data_root", "elsewhere/")
    assert not [path for path in strings(moved) if path.startswith(old)]
    assert sum(path.startswith("elsewhere/") for path in strings(moved)) == sum(
        path.startswith(old) for path in strings(cfg)
    )
    kind = type(ARCHS.get(cfg.get("arch")))  # another program's model has none
    other = next((arch for arch in ARCHS if type(ARCHS[arch]) is kind and arch != cfg["arch"]), None)
    if other is not None:
        assert read_with("arch", other)["model"]["arch"] == other
    if re.search("^classes = ", text, re.MULTILINE):
        model = read_with("classes", ("a", "b"))["model"]
        assert (model.get("bbox_head") or model)["num_classes"] == 2
    elif "num_classes" in cfg and re.search("^num_classes = ", text, re.MULTILINE):
        assert read_with("num_classes", 7)["model"] != cfg["model"]
    if re.search(r"^size = \d+$", text, re.MULTILINE):
        assert [
            step["scale"] for step in read_with("size", 77)["test_pipeline"] if step["type"] == "Resize"
        ] in ([], [(77, 77)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size = 9\nscales = [size, size]\nlog_level = 'A' + str(scales)", "scales = [size, size]"),
        ("default_hooks = dict(checkpoint=dict(_delete_=True, type='A'))", 'checkpoint=dict(type="A"'),
        ("train_cfg = _base_.val_cfg", 'train_cfg = dict(type="ValLoop"'),
        ("custom_hooks = [_base_.custom_hooks[-1], *_base_.custom_hooks[1:2]]", 'dict(type="EMAHook"'),
        ("model = {**_base_.model, 'neck': dict(type='A')}", "model = dict("),
        ("more = dict(type='A')\nval_cfg = dict(_delete_=True, **more)", 'type="A"'),
        ("env_cfg = dict(cudnn_benchmark=False)\nfor number in [1, 2]:\n    env_cfg['a'] = number", "a=2"),
        ("import os\nlog_level = os.sep", 'log_level = "/"'),
        ("import math\nlimit = math.inf\nenv_cfg = dict(a=limit)", 'limit = float("inf")'),
        ("import math\nenv_cfg = dict(a=[1, -math.inf])", 'a=[1, float("-inf")]'),
        ("env_cfg = dict(a=(1e999, 2))", "a=(1e309, 2)"),
        (
            "import math\nenv_cfg = {'a': {1: math.inf, math.inf: b'b'}}",
            'float("inf"): b',
        ),
        ("import math\nfloor = math.floor\nenv_cfg = dict(a=floor(2.5))", "a=2"),
    ],
)
def test_what_a_config_computes_is_in_its_copy(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_text(f"# Mine.\n_base_ = 'ssd320_hardnet39ds_bccd.py'\n{text}\n")
    original = load_config(path)
    flat = flat_copy(path)
    assert expected in flat
    (tmp_path / "flat.py").write_text(flat)
    copy = content(tmp_path / "flat.py")
    expected_values = original._cfg_dict.to_dict()
    assert {key: copy[key] for key in copy} == {key: expected_values[key] for key in copy}
    assert {key for key in expected_values if is_read(original, key)} <= copy.keys()


def test_nan_is_in_a_copy(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "# Mine.\n_base_ = 'ssd320_hardnet39ds_bccd.py'\nimport math\nenv_cfg = dict(a=[math.nan])\n"
    )
    (tmp_path / "flat.py").write_text(flat_copy(path))
    assert math.isnan(content(tmp_path / "flat.py")["env_cfg"]["a"][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "from pathlib import Path\nlog_level = Path('a')",
            "log_level is a PosixPath, which cannot be written",
        ),
        ("from numpy import float64\nenv_cfg = dict(a=[1, float64(2)])", r"env_cfg\.a\[1\] is a float64"),
        ("from torch import nn\nenv_cfg = dict(a=nn.ReLU)", r"env_cfg\.a is ReLU"),
        ("import collections\nenv_cfg = {'a': {2: collections.Counter}}", r"env_cfg\.a\.2 is Counter"),
        ("import string\nenv_cfg = dict(a=set(string.digits))", r"env_cfg\.a is a set"),
    ],
)
def test_what_no_expression_gives_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(f"# Mine.\n_base_ = 'ssd320_hardnet39ds_bccd.py'\n{text}\n")
    with pytest.raises(UserError, match=message):
        flat_copy(path)


def test_comments_of_what_a_config_replaces_are_left_out():
    assert "DATA_ROOT/" not in flat_copy("ssd320_hardnet39ds_bccd")
    assert "# The published recipe" not in flat_copy("demo_ssd224_shapes")
    assert "DATA_ROOT/" in flat_copy("ssd512_hardnet68")
    assert "# The published recipe" in flat_copy("ssd512_hardnet68")


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
    target = tmp_path / "my config.py"
    assert main(["configs", "demo_ssd224_shapes", "--copy", str(target)]) == 0
    assert target.read_text() == flat_copy("demo_ssd224_shapes")
    assert f"hardnet-suite check-data '{target}'" in capsys.readouterr().out
    target.write_text("mine")
    assert main(["configs", "demo_ssd224_shapes", "--copy", str(target)]) == 2
    assert f"{target} exists, and may be edited" in capsys.readouterr().err
    assert target.read_text() == "mine"
    for arguments, message in (
        (["nothing"], "no config nothing: there are centernet_hardnet39ds_bccd, centernet_hardnet68"),
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


@pytest.mark.parametrize("before", ["/gone/run", "work_dirs/gone", "./work_dirs/gone/"])
@pytest.mark.parametrize(("start", "moves"), [(DUMPED, True), (CHOSEN, True), ("", False)])
def test_the_paths_of_a_runs_config_follow_its_folder(tmp_path, monkeypatch, before, start, moves):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "work_dirs/now"
    folder.mkdir(parents=True)
    inside, beside = f"{before.strip('./') if '.' in before else before}/a.json", "work_dirs/gone2/b.json"
    text = f"_base_ = 'ssd512_hardnet68'\nwork_dir = {before!r}\nload_from = {beside!r}\n"
    text += f"val_dataloader = dict(dataset=dict(ann_file={inside!r}))\n"
    (folder / "first.py").write_text(f"{start}\n{text}")
    (folder / "epoch_1.pth").touch()
    for word in ("now", "work_dirs/now", str(folder)):
        cfg = load_config(word)
        assert folder.samefile(cfg.work_dir)
        assert cfg.load_from == beside
        place = str(folder) if before.startswith("/") else cfg.work_dir  # absolute paths stay absolute
        assert cfg.val_dataloader.dataset.ann_file == (f"{place}/a.json" if moves else inside)
    options = {"load_from": inside, "work_dir": "elsewhere"}
    cfg = load_config("now", options)
    assert {key: cfg[key] for key in options} == options
    cfg = load_config("work_dirs/now/first.py")
    assert cfg.work_dir == ("work_dirs/now" if moves else before)


def test_the_work_dir_of_a_run_that_was_not_moved_keeps_its_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "work_dirs/here"
    folder.mkdir(parents=True)
    (folder / "here.py").write_text(f"{DUMPED}_base_ = 'ssd512_hardnet68'\nwork_dir = 'work_dirs/here'\n")
    assert load_config(folder).work_dir == load_config("here").work_dir == "work_dirs/here"


SEGMENTATION = """
import sys
import mmengine.registry as registries
from hardnet_suite.openmm.run.configs import _SEGMENTATION, load_config


def registered():
    found = [each for each in vars(registries).values() if isinstance(each, registries.Registry)]
    return {name for registry in found for name in registry.module_dict}


before = registered()
load_config(f"{sys.argv[1]}/detector.py")
assert "mmseg" not in sys.modules and registered() == before
load_config(f"{sys.argv[1]}/segmentor.py")
assert registered() - before == _SEGMENTATION, registered() - before
"""


def test_classes_for_mmseg_are_registered_where_a_config_names_one(tmp_path):
    """The import that the guide names is enough, and detection does without mmseg."""
    header = 'custom_imports = dict(imports=["hardnet_suite.openmm"])\n'
    dataset = "train_dataloader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type={!r})))\n"
    (tmp_path / "detector.py").write_text(header + dataset.format("DetectionDataset"))
    (tmp_path / "segmentor.py").write_text(header + dataset.format("mmengine.SegmentationDataset"))
    command = [sys.executable, "-c", SEGMENTATION, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
