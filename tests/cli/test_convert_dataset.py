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


def test_a_dropped_box_is_named_and_no_failure(cli, shared, tmp_path):
    target = tmp_path / "my cells"
    status, out, err = cli("convert-dataset", "voc", shared / "data/bccd", target, "--link")
    assert (status, err) == (0, "")
    assert "box dropped: BloodImage_00338.xml, RBC [504, 337, 504, 337]: it has no width or no height" in out
    assert "box dropped: BloodImage_00343.xml, RBC [181, 329, 181, 329]: it has no width or no height" in out
    assert out.endswith(f"next: hardnet-suite train ssd320_hardnet39ds --data '{target}'\n")


def test_no_voc_folder(error_of, tmp_path):
    assert "no folder" in error_of("convert-dataset", "voc", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
