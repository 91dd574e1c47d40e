"""Values that no field should have: an entry is named, nothing overflows, and nothing changes in silence."""

from __future__ import annotations

import json
import os

import hostile_data
import pytest

from hardnet_suite.cli import main
from hardnet_suite.data.classification import check_classification, read_csv, read_folder
from hardnet_suite.data.coco import annotation_lines, read_coco, read_json
from hardnet_suite.data.files import is_file
from hardnet_suite.data.report import escaped
from hardnet_suite.data.sources import count_of, drawn_in
from hardnet_suite.data.xml_files import number as xml_number
from hardnet_suite.errors import UserError
from hardnet_suite.evaluation.coco import evaluate_coco
from hardnet_suite.prediction import PredictionWriter
from hardnet_suite.visualization.curves import read_scalars

HUGE = 10**400
DEEP = "[" * 10_000 + "]" * 10_000


def changed(**entry):
    content = hostile_data.good_coco()
    content["annotations"][3] |= entry
    return content


@pytest.mark.parametrize(
    ("area", "kind"),
    [("x", "missing area"), (HUGE, "missing area"), (1e308, "area beyond the box"), (-1, "empty area")],
)
def test_an_area_that_is_not_used_is_told_where_boxes_are_scored(area, kind):
    content = read_coco(changed(area=area))
    assert content.boxes[3].area == 30 * 12
    (line,) = annotation_lines(content)
    assert f"{kind} (1): annotation 4 of image 2" in line


@pytest.mark.parametrize("side", [0.5, 64.5, 0, -1, 1e308, HUGE, "64", True, float("nan")])
def test_an_image_has_whole_pixels(side):
    content = hostile_data.good_coco()
    content["images"][0]["width"] = side
    file = read_coco(content)
    assert file.images[0].width is None
    assert file.findings[0].what == "lacks a valid width"


def test_a_side_may_be_a_float_of_an_integer():
    content = hostile_data.good_coco()
    content["images"][0]["width"] = 64.0
    assert read_coco(content).images[0][2:] == (64, 64)
    assert type(read_coco(content).images[0].width) is int


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [10**15, 10**15], "counts": [0, 10**30]},
        {"size": [10**9, 10**9], "counts": [10**18]},
        {"size": [1, 10**4299], "counts": [10**4299, 0]},
        {"size": [64, 64], "counts": [10**4299, 10**4299]},
        {"size": [64, 64], "counts": [True, 4095]},
    ],
)
def test_a_huge_mask_is_dropped_where_the_image_has_no_size(mask):
    content = changed(segmentation=mask)
    for image in content["images"]:
        del image["width"]
    file = read_coco(content)
    assert file.boxes[3].segmentation is None
    (finding,) = (each for each in file.findings if each.kind == "invalid mask")
    assert finding.where == "annotation 4 of image 2"
    assert "Exceeds the limit" not in finding.what


def test_a_repeated_key_of_json_is_an_error(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"id": 7, "width": 1, "width": 2}], "annotations": []}')
    with pytest.raises(UserError, match="has the key 'width' twice in one object of id 7"):
        read_json(path)


@pytest.mark.parametrize("box", [[1e308, 0, 5, 5], [0, 0, 1e308, 1e308], [0, -1e9, 5, 5], [HUGE, 0, 1, 1]])
def test_a_result_beyond_any_image_is_named(tmp_path, box):
    results = hostile_data.good_results()
    results[2]["bbox"] = box
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    with pytest.raises(UserError, match="entry 2 has bbox") as caught:
        evaluate_coco(hostile_data.good_coco(), path)
    assert "\n" not in str(caught.value)


def test_results_of_negative_size_are_told(tmp_path, capsys):
    hostile_data.write_good_folder(tmp_path)
    results = hostile_data.good_results()
    results[2]["bbox"][2] = -25
    (tmp_path / "results.json").write_text(json.dumps(results))
    arguments = ["--annotations", tmp_path / "annotations.json", "--results", tmp_path / "results.json"]
    assert main(["eval", "coco", *map(str, arguments)]) == 0
    assert (
        "1 of the 6 detections have a negative width or height and match nothing" in capsys.readouterr().err
    )


def test_control_characters_are_escaped_in_reports(tmp_path, capsys):
    content = hostile_data.good_coco()
    content["annotations"].append({**content["annotations"][0], "id": "\x1b[2J\ud800", "area": 0})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    results = tmp_path / "r.json"
    results.write_text(json.dumps(hostile_data.good_results()))
    assert main(["eval", "coco", "--annotations", str(path), "--results", str(results)]) == 0
    errors = capsys.readouterr().err
    assert r"\x1b[2J\ud800" in errors
    assert "\x1b" not in errors
    assert escaped("é\x9b\tü\n") == "é\\x9b\\x09ü\n"


@pytest.mark.parametrize("text", ["1_0", "", "nan", "inf", "1e400", "7px", None])
def test_what_is_no_number_in_voc(text):
    assert xml_number(text) is None


def test_labels_of_thousands_of_digits(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"file,label\n1.png,{'1' * 5000}\n2.png,2\n")
    assert len(read_csv(path, tmp_path).classes) == 2


def test_names_that_no_file_can_have_are_missing_images(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(f"file,label\n{'a' * 5000},cat\n{'b/' * 3000},cat\n")
    report = check_classification(read_csv(path, tmp_path))
    assert [finding.kind for finding in report.errors] == ["missing image"] * 2
    assert not is_file(tmp_path / ("a" * 5000))
    assert not is_file("a\0b")


def test_class_names_with_control_characters_are_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("file,label\n1.png,a\x1b[2J\n")
    with pytest.raises(UserError, match=r"'a\\x1b\[2J', expected printable text"):
        read_csv(path, tmp_path)
    (tmp_path / "set/a\x1b[2J").mkdir(parents=True)
    with pytest.raises(UserError, match="expected printable text"):
        read_folder(tmp_path / "set")


def test_a_pipe_in_the_place_of_a_list_is_refused_at_once(tmp_path):
    for name in ("a.csv", "scalars.json", "predictions.jsonl"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="a pipe, socket or device"):
        read_csv(tmp_path / "a.csv", tmp_path)
    with pytest.raises(UserError, match="a pipe, socket or device"):
        read_scalars(tmp_path / "scalars.json")
    with pytest.raises(UserError, match="a pipe, socket or device"):
        PredictionWriter(tmp_path)
    assert drawn_in(tmp_path) == set()


@pytest.mark.parametrize("text", [DEEP, '{"name": ' + DEEP + "}", "1" * 5000, "[]", "null"])
def test_lines_beside_drawings_that_are_none(tmp_path, text):
    (tmp_path / "predictions.jsonl").write_text(text + "\n")
    assert drawn_in(tmp_path) == set()
    with pytest.raises(UserError, match="line 1: expected a line that predict wrote"):
        PredictionWriter(tmp_path)


@pytest.mark.parametrize("source", [[], {}, 5])
def test_the_source_of_a_drawing_is_text(tmp_path, source):
    (tmp_path / "a.jpg").touch()
    row = {"name": "a.png", "task": "detection", "source": source, "drawing": "a.jpg"}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="line 1: expected a line that predict wrote"):
        PredictionWriter(tmp_path)


def test_a_drawing_whose_name_is_too_long_is_none(tmp_path):
    row = {"name": "a.png", "task": "detection", "drawing": "a" * 5000 + ".jpg"}
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    PredictionWriter(tmp_path)


@pytest.mark.parametrize("value", ["x", [1], {}, True, HUGE, 1e308])
@pytest.mark.parametrize("key", ["loss", "step", "iter", "epoch", "coco/bbox_mAP", "top5"])
def test_a_log_without_a_number_is_named(tmp_path, key, value):
    path = tmp_path / "scalars.json"
    path.write_text(json.dumps({"loss": 1.0, "step": 1}) + "\n" + json.dumps({key: value}) + "\n")
    with pytest.raises(UserError, match=f"scalars.json, line 2: {key} is ") as caught:
        read_scalars(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", [DEEP, "1" * 5000])
def test_a_log_that_python_cannot_read_is_named(tmp_path, text):
    path = tmp_path / "scalars.json"
    path.write_text(f'{{"loss": {text}}}\n{{"loss": 1, "step": 1}}\n')
    with pytest.raises(UserError, match="line 1 is not JSON"):
        read_scalars(path)


def test_values_of_a_diverged_run_are_read(tmp_path):
    path = tmp_path / "scalars.json"
    path.write_text('{"loss": NaN, "step": 1}\n{"loss": Infinity, "step": 2}\n{"loss": null, "step": 3}\n')
    assert len(read_scalars(path)) == 3


@pytest.mark.parametrize("number", ["²", "9" * 5000])
def test_a_camera_has_a_plain_number(number):
    assert count_of(f"camera:{number}") == 1  # the name of a file
