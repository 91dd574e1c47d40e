from __future__ import annotations

import json

import pytest
from PIL import Image


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


@pytest.mark.parametrize(
    ("splits", "said"),
    [({"train": 2}, True), ({"train": 1}, False), ({"val": 2}, False), ({"train": 1, "val": 1}, True)],
)
def test_the_next_command_is_one_that_works(cli, tmp_path, splits, said):
    for split, count in splits.items():
        for number in range(count):
            for place in ("images", "labels"):
                (tmp_path / "in" / place / split).mkdir(parents=True, exist_ok=True)
            color = (number, 0, 99 * (split == "val"))
            Image.new("RGB", (64, 48), color).save(tmp_path / f"in/images/{split}/{number}.png")
            (tmp_path / f"in/labels/{split}/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    text = "".join(f"{split}: images/{split}\n" for split in splits)
    (tmp_path / "in/data.yaml").write_text(f"{text}names: [cat]\n")
    status, out, _ = cli("convert-dataset", tmp_path / "in", tmp_path / "out")
    assert status == 0
    assert ("next: hardnet-suite train" in out) == said
