"""A drawing or a video of drawings in one file, which replaces earlier ones and nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.sources import images_of
from hardnet_suite.errors import UserError
from hardnet_suite.prediction import Prediction, VideoFile
from hardnet_suite.prediction.files import DrawingFile, LinesFile, names_file, names_lines, names_video

TASKS = ("classification", "detection", "segmentation")


def prediction_of(source, task="detection") -> Prediction:
    mask = np.zeros((48, 64), np.uint8)
    mask[:, 32:] = 1
    return Prediction(
        name=source.name,
        task=task,
        size=(64, 48),
        labels=np.array([0]),
        names=("cat",),
        scores=np.array([0.5]),
        boxes=np.array([[8.0, 8.0, 40.0, 40.0]]) if task == "detection" else None,
        mask=mask if task == "segmentation" else None,
        classes=("cat", "dog"),
        palette=((255, 0, 0), (0, 255, 0)),
        source=source,
    )


@pytest.fixture
def prediction(tmp_path) -> Prediction:
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "a.png")
    (image,) = images_of(tmp_path / "a.png")
    return prediction_of(image)


def write_video(path, count=7, fps=12.5, size=(64, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    for shade in range(count):
        writer.write(np.full((size[1], size[0], 3), 20 * shade, np.uint8))
    writer.release()
    return path


def read_video(path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1])
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == len(frames)
    return frames, capture.get(cv2.CAP_PROP_FPS)


def listing(folder) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.mark.parametrize("name", ["r.jpg", "r.JPEG", "r.png", "new/deep/r.png"])
def test_a_drawing_is_saved_and_replaced(tmp_path, prediction, name):
    path = tmp_path / name
    assert prediction.save(path) == path
    with Image.open(path) as image:
        assert image.size == (64, 48)
        if path.suffix == ".png":
            assert np.array_equal(np.asarray(image), np.asarray(prediction.draw()))
    before = path.read_bytes()
    replace(prediction, scores=np.array([0.25])).save(path)
    assert path.read_bytes() != before
    assert not list(tmp_path.rglob("predictions.jsonl"))


@pytest.mark.parametrize("name", ["r.jpg", "r.png"])
def test_files_of_others_are_kept(tmp_path, prediction, name):
    for content in ("image", b"", b"no image"):
        path = tmp_path / name
        if content == "image":
            Image.new("RGB", (5, 5)).save(path)
        else:
            path.write_bytes(content)
        before = path.read_bytes()
        with pytest.raises(UserError, match=r"exists, and no earlier prediction wrote it: move it away"):
            prediction.save(path)
        assert path.read_bytes() == before
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists, and no earlier prediction wrote it"):
        prediction.save(path)


def test_a_drawing_is_not_drawn_over_itself(tmp_path, prediction):
    path = prediction.save(tmp_path / "r.png")
    (image,) = images_of(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"r\.png is the image itself"):
        prediction_of(image).save(path)
    assert path.read_bytes() == before


def test_folders_stay_folders(tmp_path, prediction):
    (tmp_path / "old.jpg").mkdir()
    assert prediction.save(tmp_path / "old.jpg") == tmp_path / "old.jpg/a.jpg"
    assert prediction.save(tmp_path / "results.v2") == tmp_path / "results.v2/a.jpg"
    with pytest.raises(ValueError, match="a stem is for a folder"):
        prediction.save(tmp_path / "b.jpg", "stem")
    assert not names_file("a.mp4")
    assert names_video("a.MP4")
    assert not names_video("a.avi")


def test_a_file_that_cannot_be_written(tmp_path, prediction):
    (tmp_path / "file").touch()
    for write in (DrawingFile(tmp_path / "file/r.jpg").write, VideoFile(tmp_path / "file/r.mp4").write):
        with pytest.raises(UserError, match="file") as caught:
            write(prediction)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("fps", [12.5, 29.97])
def test_a_video_has_the_frames_size_and_rate_of_its_source(tmp_path, task, fps):
    source = write_video(tmp_path / "in.mp4", fps=fps)
    with VideoFile(tmp_path / "out/clip.mp4") as video:
        for image in images_of(source):
            assert image.fps == pytest.approx(fps)
            video.write(prediction_of(image, task))
        assert not (tmp_path / "out/clip.mp4").exists()
    frames, rate = read_video(tmp_path / "out/clip.mp4")
    assert rate == pytest.approx(fps)
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    original, _ = read_video(source)
    assert len(frames) == len(original) == 7
    # brighter from frame to frame, as the source
    assert np.all(np.diff([frame[2:6].mean() for frame in frames]) > 5)
    assert os.listdir(tmp_path / "out") == ["clip.mp4"]


def test_a_frame_is_what_draw_returns(tmp_path):
    (image,) = images_of(write_video(tmp_path / "in.mp4", 1))
    prediction = prediction_of(image)
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(prediction)
    ((frame,), _) = read_video(tmp_path / "out.mp4")
    difference = frame[..., ::-1].astype(int) - np.asarray(prediction.draw())
    assert np.abs(difference).mean() < 8  # the codec's loss; swapped channels give 30
    assert np.abs(frame.astype(int) - np.asarray(prediction.draw())).mean() > 8


def test_videos_replace_their_own_kind_alone(tmp_path):
    source = write_video(tmp_path / "in.mp4")
    images = list(images_of(source))
    for count in (3, 2):
        with VideoFile(tmp_path / "out.mp4") as video:
            for image in images[:count]:
                video.write(prediction_of(image))
        assert len(read_video(tmp_path / "out.mp4")[0]) == count
    for content in (source.read_bytes(), b"", b"mine"):
        (tmp_path / "own.mp4").write_bytes(content)
        with pytest.raises(UserError, match="no earlier prediction wrote it"):
            VideoFile(tmp_path / "own.mp4")
        assert (tmp_path / "own.mp4").read_bytes() == content


def test_a_video_is_not_drawn_over_itself(tmp_path):
    source = write_video(tmp_path / "in.mp4", 2)
    with VideoFile(tmp_path / "out.mp4") as video:
        for image in images_of(source):
            video.write(prediction_of(image))
    before = (tmp_path / "out.mp4").read_bytes()
    first, *_ = images_of(tmp_path / "out.mp4")
    video = VideoFile(tmp_path / "out.mp4")
    with pytest.raises(UserError, match=r"out\.mp4 is the image itself"):
        video.write(prediction_of(first))
    video.close()
    assert (tmp_path / "out.mp4").read_bytes() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, UserError])
@pytest.mark.parametrize("camera", [False, True])
def test_an_interruption_ends_a_recording_and_drops_an_unfinished_video(tmp_path, error, camera):
    images = list(images_of(write_video(tmp_path / "in.mp4")))
    before = listing(tmp_path)

    def record() -> None:
        with VideoFile(tmp_path / "out.mp4") as video:
            for number in range(4):
                origin = "camera" if camera else images[number].origin
                video.write(prediction_of(replace(images[number], origin=origin)))
            raise error

    with pytest.raises(error):
        record()
    if camera and error in (KeyboardInterrupt, SystemExit):
        assert len(read_video(tmp_path / "out.mp4")[0]) == 4
    else:
        assert listing(tmp_path) == before


def test_frames_of_another_size_and_no_frames(tmp_path):
    first, *_ = images_of(write_video(tmp_path / "in.mp4"))
    other, *_ = images_of(write_video(tmp_path / "other.mp4", size=(32, 32)))
    before = listing(tmp_path)
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(prediction_of(first))
        with pytest.raises(UserError, match=r"has 32×32 pixels, the frames of .*out\.mp4 have 64×48"):
            video.write(replace(prediction_of(other), size=(32, 32)))
        video.close(complete=False)
    with VideoFile(tmp_path / "out.mp4"):
        pass
    assert listing(tmp_path) == before


def test_frames_without_a_rate_get_the_usual_one(tmp_path, prediction):
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(prediction)
    assert read_video(tmp_path / "out.mp4")[1] == 30


def test_an_odd_side_loses_a_pixel(tmp_path):
    image = Image.new("RGB", (65, 49), "grey")
    (source,) = images_of(image)
    with VideoFile(tmp_path / "out.mp4") as video:
        video.write(replace(prediction_of(source), size=(65, 49)))
    assert read_video(tmp_path / "out.mp4")[0][0].shape == (48, 64, 3)


@pytest.mark.parametrize("task", TASKS)
def test_lines_are_those_of_to_dict(tmp_path, task):
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "a.png")
    predictions = [prediction_of(image, task) for image in images_of([tmp_path / "a.png"] * 3)]
    with LinesFile(tmp_path / "new/deep/r.jsonl") as file:
        for each in predictions:
            assert file.write(each) == tmp_path / "new/deep/r.jsonl"
        assert not file.path.exists()  # it takes its place as a whole
    rows = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert rows == [each.to_dict() for each in predictions]
    assert os.listdir(tmp_path / "new/deep") == ["r.jsonl"]


def test_lines_replace_their_own_kind_alone(tmp_path, prediction):
    path = tmp_path / "r.jsonl"
    for _ in range(2):
        with LinesFile(path) as file:
            file.write(prediction)
    assert len(path.read_text().splitlines()) == 1
    with LinesFile(path):
        pass  # no image, no line
    assert path.read_text() == ""
    with LinesFile(path) as file:
        file.write(prediction)
    prediction.save(tmp_path / "out")
    with LinesFile(path) as file:
        assert file.write_failure("ä.png", "cannot read it") == path
    assert json.loads(path.read_text()) == {"name": "ä.png", "error": "cannot read it"}
    with LinesFile(path) as file:  # also where the first image could not be read
        file.write(prediction)
    others = [
        '{"name": "cat"}\n',
        '{"name": "cat", "error": "none", "more": 1}\n',
        "text",
        "[1]\n",
        '{"name": ',
        "\n",
        (tmp_path / "out/predictions.jsonl").read_text(),
    ]
    for content in others:
        path.write_text(content)
        with pytest.raises(UserError, match="exists, and no earlier prediction wrote it"):
            LinesFile(path)
        assert path.read_text() == content


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, UserError])
def test_an_interruption_leaves_earlier_lines(tmp_path, prediction, error):
    path = tmp_path / "r.jsonl"
    with LinesFile(path) as file:
        file.write(prediction)
    before = listing(tmp_path)

    def interrupted():
        with LinesFile(path) as file:
            file.write(replace(prediction, scores=np.array([0.25])))
            raise error

    with pytest.raises(error):
        interrupted()
    assert listing(tmp_path) == before


@pytest.mark.parametrize(("error", "lines"), [(KeyboardInterrupt, 2), (SystemExit, 2), (UserError, 0)])
def test_a_cameras_lines_end_by_an_interruption(tmp_path, prediction, error, lines):
    def record():
        with LinesFile(tmp_path / "r.jsonl", recording=True) as file:
            for _ in range(2):
                file.write(prediction)
            raise error

    with pytest.raises(error):
        record()
    written = list(tmp_path.glob("*.jsonl"))
    assert sum(len(path.read_text().splitlines()) for path in written) == lines
    assert {path.name for path in tmp_path.iterdir()} <= {"a.png", "r.jsonl"}


def test_lines_without_finite_numbers(tmp_path, prediction):
    with pytest.raises(UserError, match="expected finite scores"), LinesFile(tmp_path / "r.jsonl") as file:
        file.write(replace(prediction, scores=np.array([np.nan])))
    assert not (tmp_path / "r.jsonl").exists()


def test_lines_are_places_by_their_suffix(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    assert names_lines("a.jsonl")
    assert names_lines("A.JSONL")
    assert not names_lines("a.json")
    assert not names_lines(tmp_path / "folder.jsonl")
