"""The examples of docs/backbone.md, section by section: each runs where its packages are installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs/backbone.md").read_text(encoding="utf-8")
INTRODUCTION, *SECTIONS = re.split(r"^## ", TEXT, flags=re.MULTILINE)
CONFIG, ELSEWHERE = "MMDetection and MMSegmentation", "timm, smp and transformers"
NEEDS = {"Lightning": "lightning", "Kornia": "kornia"}


def blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda text: text.partition("\n")[0])
def test_examples_run(section, tmp_path, monkeypatch):
    title = section.partition("\n")[0]
    if title == ELSEWHERE:
        pytest.skip("run by tests/test_timm.py")
    if title == CONFIG:
        pytest.skip("a config, see below")
    if title in NEEDS:
        pytest.importorskip(NEEDS[title], reason=f"{NEEDS[title]} is not installed")
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    assert blocks(section)
    for block in (*blocks(INTRODUCTION), *blocks(section)):
        exec(compile(block, "docs/backbone.md", "exec"), namespace)


def test_the_config_builds(tmp_path):
    pytest.importorskip("pkg_resources", reason="mmengine finds packages by it: setuptools < 82")
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    from hardnet_suite.openmm.run.configs import load_config

    (section,) = (text for text in SECTIONS if text.startswith(f"{CONFIG}\n"))
    config, resumable, panoptic = blocks(section)
    (tmp_path / "config.py").write_text(config)
    cfg = Config.fromfile(tmp_path / "config.py")
    assert cfg.model.neck.in_channels == [128, 320, 640, 1024]
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(cfg.model)
    assert type(model).__name__ == "RetinaNet"
    assert model.backbone.out_channels == cfg.model.neck.in_channels
    assert model.backbone.init_cfg == {"type": "HarDNetPretrained", "tag": "published"}

    (tmp_path / "resumable.py").write_text(f"{config}\n{resumable}")
    cfg = load_config(tmp_path / "resumable.py")
    assert cfg.train_cfg.type == "ResumableEpochLoop"
    assert cfg.default_hooks.checkpoint == {"type": "ResumableCheckpointHook", "interval": 1}
    assert cfg.default_hooks.logger.type == "LoggerHook"  # of the base

    (tmp_path / "panoptic.py").write_text(panoptic)
    head = load_config(tmp_path / "panoptic.py").model.panoptic_head
    assert (head.num_things_classes, head.num_stuff_classes, len(head.loss_cls.class_weight)) == (6, 1, 8)


def test_the_table_of_the_sweep_adds_up():
    """To the counts that the text gives, with one row for each family of configs."""
    from mmdet import __file__ as mmdet_file
    from mmseg import __file__ as mmseg_file

    given = re.search(r"- mmdet: (\d+) of \d+ .*\n- mmseg: (\d+) of \d+\n", TEXT)
    kinds = re.search(
        r"Not counted are (\d+) and (\d+) kinds .* and (\d+) and (\d+) that\s+fail", TEXT, re.DOTALL
    )
    for index, (package, file) in enumerate((("mmdet", mmdet_file), ("mmseg", mmseg_file))):
        rows = re.findall(rf"^\| {package}/(\S+) \| .* \| (\d+) of (\d+) \| (.*?) ?\|$", TEXT, re.MULTILINE)
        folders = [path.name for path in (Path(file).parent / ".mim/configs").iterdir() if path.is_dir()]
        assert {name for name, *_ in rows} == {*folders} - {"_base_", "common", "__pycache__"}
        assert sum(int(works) for _, works, _, _ in rows) == int(given[index + 1])
        for start, count in (("no place", kinds[index + 1]), ("fails", kinds[index + 3])):
            left = [int(all) - int(works) for _, works, all, why in rows if why.startswith(start)]
            assert sum(left) == int(count)
