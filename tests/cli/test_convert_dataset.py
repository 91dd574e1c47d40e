from __future__ import annotations

import json


def test_voc_becomes_coco(cli, shared, tmp_path):
    status, out, err = cli(
        "convert-dataset", "voc", shared / "data/bccd", tmp_path / "bccd", "--splits", "test", "--link"
    )
    assert (status, err) == (0, "")
    assert "test       72     945" in out
    content = json.loads((tmp_path / "bccd/annotations/instances_test.json").read_text())
    assert len(content["images"]) == 72


def test_no_voc_folder(error_of, tmp_path):
    assert "no folder" in error_of("convert-dataset", "voc", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
