from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import SHARED
from drawn_collection import SIDE, drawn_scenes, drawn_views, save_collection
from drawn_pairs import small_descriptor
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from hardnet_suite.data.descriptors import require_described, write_descriptors
from hardnet_suite.deploy import export, open_session
from hardnet_suite.errors import UserError
from hardnet_suite.matching import HardNetDetector
from hardnet_suite.matching import index as index_module
from hardnet_suite.matching.index import ImageIndex, build_index, is_index, load_index
from hardnet_suite.matching.patches import digest_of

pytest.importorskip("faiss")
METHODS = ["vlad", "bow"]
FLAT = np.full((SIDE, SIDE), 90, np.uint8)


def detector(**options) -> HardNetDetector:
    return HardNetDetector(small_descriptor(), **{"top_k": 80, "channels": "rgb", **options})


@pytest.fixture(scope="module")
def indexes() -> dict[str, ImageIndex]:
    """Of each method; not to be changed."""
    return {
        method: build_index(list(drawn_scenes()), detector=detector(), method=method) for method in METHODS
    }


def numbers(hits) -> list[int]:
    return [hit.number for hit in hits]


@pytest.mark.parametrize("method", METHODS)
def test_an_image_finds_itself_and_scores_are_cosines(indexes, method):
    index = indexes[method]
    assert index.names == [f"image_{number}" for number in range(6)]
    for number, scene in enumerate(drawn_scenes()):
        hits = index.search(scene, top=None)
        assert hits[0].number == number
        assert hits[0].name == f"image_{number}"
        assert hits[0].score == pytest.approx(1, abs=1e-5)
        assert hits[0].inliers is None
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert max(scores[1:]) < 0.9
        assert sorted(numbers(hits)) == list(range(6))
        assert numbers(index.search(scene, top=2)) == numbers(hits)[:2]


@pytest.mark.parametrize("method", METHODS)
def test_verification_finds_views_of_the_scenes(indexes, method):
    verified = [indexes[method].search(view, verify=True) for view in drawn_views()]
    assert sum(hits[0].number == number for number, hits in enumerate(verified)) >= 5
    assert sum(hits[0].inliers >= 8 for hits in verified) >= 4
    for hits in verified:
        inliers = [hit.inliers for hit in hits]
        assert inliers == sorted(inliers, reverse=True)


@pytest.mark.parametrize("count", [1, 3])
def test_only_the_best_are_verified(indexes, count):
    view = drawn_views()[0]
    plain = indexes["vlad"].search(view)
    hits = indexes["vlad"].search(view, verify=count)
    assert sorted(numbers(hits[:count])) == sorted(numbers(plain[:count]))
    assert hits[count:] == plain[count:]
    assert all(hit.inliers is not None for hit in hits[:count])


def test_inliers_are_places(monkeypatch):
    """Keypoints at one place with several orientations are one inlier."""
    points = np.random.default_rng(0).uniform(0, 320, (9, 2)).astype(np.float32)
    pairs = np.arange(27)[:, None].repeat(2, 1)
    monkeypatch.setattr(index_module, "mutual_matches", lambda *_: (pairs, np.zeros(27, np.float32)))
    image = index_module._LocalFeatures(points.repeat(3, 0), np.zeros((27, 4), np.float16))
    assert index_module._inliers(image, image) == 9


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_index_answers_the_same(indexes, method, tmp_path):
    path = tmp_path / "new" / "index.safetensors"
    indexes[method].save(path)
    assert is_index(path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    loaded = load_index(path, model=small_descriptor())
    for view in drawn_views()[:2]:
        assert loaded.search(view, top=None, verify=2) == indexes[method].search(view, top=None, verify=2)
    with safe_open(path, "numpy") as file:
        assert file.metadata()["weights_digest"] == digest_of(small_descriptor())


def test_an_exported_file_in_float32_is_the_network_it_was_made_of(indexes, tmp_path):
    network = small_descriptor()
    files = {precision: tmp_path / f"{precision}.onnx" for precision in ("fp32", "fp16")}
    for precision, file in files.items():
        export(network, file, precision=precision)
    indexes["vlad"].save(tmp_path / "index.safetensors")
    index = load_index(tmp_path / "index.safetensors", model=files["fp32"])
    view = drawn_views()[0]
    assert numbers(index.search(view)) == numbers(indexes["vlad"].search(view))
    assert digest_of(open_session(files["fp32"])) == digest_of(network)
    with pytest.raises(UserError, match=r"was made with .* not with .*fp16\.onnx"):
        load_index(tmp_path / "index.safetensors", model=files["fp16"])
    write_descriptors(tmp_path / "a.npz", np.eye(2), weights=digest_of(open_session(files["fp32"])))
    assert require_described(tmp_path / "a.npz", weights=digest_of(network)) == digest_of(network)
    with pytest.raises(UserError, match="of other weights, or of them in another precision"):
        require_described(tmp_path / "a.npz", weights=digest_of(open_session(files["fp16"])))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_index(indexes, method):
    again = build_index(list(drawn_scenes()), detector=detector(), method=method)
    np.testing.assert_array_equal(again.codebook, indexes[method].codebook)
    other = build_index(list(drawn_scenes()), detector=detector(), method=method, seed=1)
    assert not np.array_equal(other.codebook, again.codebook)


@pytest.mark.parametrize("method", METHODS)
def test_added_images_are_found_as_if_they_had_been_there(indexes, method, tmp_path):
    scenes = list(drawn_scenes())
    index = build_index(scenes[:3], detector=detector(), method=method, codebook=indexes[method].codebook)
    index.search(scenes[0])  # what ranks is made anew afterwards
    index.save(tmp_path / "index.safetensors")
    for one in (index, load_index(tmp_path / "index.safetensors", model=small_descriptor())):
        assert one.add(scenes[3:]) == 3
        for view in drawn_views():
            hits, expected = (each.search(view, verify=True) for each in (one, indexes[method]))
            assert numbers(hits) == numbers(expected)
            np.testing.assert_allclose(
                [hit.score for hit in hits], [hit.score for hit in expected], rtol=0, atol=1e-5
            )


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_are_images_of_their_own(indexes, method):
    scene = drawn_scenes()[0]
    index = build_index([scene, scene, drawn_scenes()[1]], detector=detector(), method=method)
    hits = index.search(scene, verify=True)
    assert numbers(hits) == [0, 1, 2]
    assert hits[0].score == pytest.approx(hits[1].score)
    assert hits[0].inliers == hits[1].inliers > 8


@pytest.mark.parametrize("method", METHODS)
def test_an_index_of_one_image(method):
    scene = drawn_scenes()[0]
    index = build_index(scene, detector=detector(), method=method, words=5)
    (hit,) = index.search(scene)
    assert (hit.name, hit.number) == ("image", 0)
    assert hit.score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("top_k", [3, 9, 15])
def test_few_descriptors_have_two_words(method, top_k):
    scenes = drawn_scenes()[:1] if top_k > 3 else drawn_scenes()[:2]
    index = build_index(list(scenes), detector=detector(top_k=top_k), method=method)
    assert len(index.codebook) == 2
    for scene in scenes:
        assert max(hit.score for hit in index.search(scene)) == pytest.approx(1, abs=1e-5)


def test_an_image_whose_descriptors_are_the_words_is_told():
    """Its VLAD is 0, and so would be its score with itself: no search would find it."""
    scene, other = drawn_scenes()[:2]
    three = detector(top_k=3)
    with pytest.raises(UserError, match="image: its descriptors are words of the codebook"):
        build_index(scene, detector=three, words=3)
    codebook = three.features(scene).descriptors.astype(np.float16).astype(np.float32)
    failed: list[tuple[str, str]] = []
    with pytest.warns(UserWarning, match="skipped: image_0: its descriptors are words"):
        index = build_index([scene, other], detector=three, codebook=codebook, failed=failed)
    assert index.names == ["image_1"]
    assert [name for name, _ in failed] == ["image_0"]
    with pytest.raises(UserError, match="query: its descriptors are words of the codebook"):
        index.search(scene, name="query")
    with pytest.raises(UserError, match="its descriptors are words of the codebook"):
        index.add(scene)
    assert len(index) == 1
    assert index.search(other)
    with warnings.catch_warnings(action="ignore"), pytest.raises(UserError, match="each has a VLAD of 0"):
        build_index([scene, scene], detector=three, codebook=codebook)
    assert build_index(scene, detector=three, method="bow", words=3).names  # counts of words are not 0


def test_what_cannot_be_added_is_told(tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    images = [drawn_scenes()[0], tmp_path / "bad.png", FLAT, tmp_path / "none.png", drawn_scenes()[1]]
    failed: list[tuple[str, str]] = []
    with pytest.warns(UserWarning, match="skipped") as record:
        index = build_index(images, detector=detector(), failed=failed)
    assert len(record) == 3
    assert index.names == ["image_0", "image_4"]
    assert [name for name, _ in failed] == [str(tmp_path / "bad.png"), "image_2", str(tmp_path / "none.png")]
    assert "image_2 has no keypoints" in failed[1][1]
    with pytest.raises(UserError, match="no keypoints"):
        index.add(FLAT)
    with pytest.raises(UserError, match=r"none\.png"):
        index.add(tmp_path / "none.png")
    assert len(index) == 2
    with warnings.catch_warnings(action="ignore"), pytest.raises(UserError, match="no image to index"):
        build_index([FLAT, FLAT], detector=detector())
    with pytest.raises(UserError, match="query has no keypoints"):
        index.search(FLAT, name="query")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "asmk"}, ValueError, "vlad, bow"),
        ({"words": 0}, ValueError, "at least 2, got 0"),
        ({"words": 1}, ValueError, "at least 2, got 1"),
        ({"words": 1, "method": "bow"}, ValueError, "at least 2, got 1"),
        ({"words": 4, "codebook": np.ones((4, 128))}, ValueError, "leave them out with a codebook"),
        ({"seed": 0, "codebook": np.ones((4, 128))}, ValueError, "leave them out with a codebook"),
        ({"codebook": np.ones((1, 128))}, ValueError, r"at least 2 words, got \(1, 128\)"),
        ({"codebook": np.ones((4, 64))}, ValueError, r"expected a codebook \(K, 128\)"),
        ({"codebook": np.full((4, 128), np.nan)}, ValueError, "NaN"),
        ({"words": 100_000}, UserError, "too few for 100000 words"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        build_index(drawn_scenes()[0], detector=detector(), **options)


@pytest.mark.parametrize("options", [{"top": 0}, {"verify": 0}, {"verify": -1}])
def test_wrong_numbers(indexes, options):
    with pytest.raises(ValueError, match="at least 1"):
        indexes["vlad"].search(drawn_scenes()[0], **options)


def test_other_weights_are_an_error(indexes, tmp_path):
    path = tmp_path / "index.safetensors"
    indexes["vlad"].save(path)
    with pytest.raises(UserError, match="search with the same weights"):
        load_index(path, model=small_descriptor(seed=1))


def test_the_options_of_the_detector_travel_with_the_index(tmp_path):
    options = {"top_k": 30, "upright": True, "contrast": 0.02, "region": 8.0, "channels": "bgr"}
    index = build_index(drawn_scenes()[0], detector=detector(**options))
    index.save(tmp_path / "index.safetensors")
    loaded = load_index(tmp_path / "index.safetensors", model=small_descriptor()).detector
    assert {key: getattr(loaded, key) for key in options} == options


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_arrays_are_read_alike_before_and_after_saving(channels, tmp_path):
    scenes = [scene if channels == "rgb" else scene[..., ::-1] for scene in drawn_scenes()]
    index = build_index(scenes, detector=detector(channels=channels))
    index.save(tmp_path / "index.safetensors")
    loaded = load_index(tmp_path / "index.safetensors", model=small_descriptor())
    for scene in scenes[:2]:
        hits = loaded.search(scene, top=None)
        assert hits == index.search(scene, top=None)
        assert hits[0].score == pytest.approx(1, abs=1e-5)


def altered(source, target, arrays=(), metadata=()):
    with safe_open(source, "numpy") as file:
        old = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        head = file.metadata()
    old.update(arrays)
    head.update(metadata)
    save_file(
        {key: value for key, value in old.items() if value is not None},
        target,
        {key: value for key, value in head.items() if value is not None},
    )


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"words": None}, {}, "expected words"),
        ({"words": np.zeros(3, np.int32)}, {}, "expected 4.. places and words|damaged"),
        ({"counts": np.array([-1] * 6)}, {}, "keypoints of 6 images"),
        ({"counts": np.array([2**62] * 6)}, {}, "keypoints of 6 images"),
        ({"counts": np.array([5])}, {}, "keypoints of 6 images"),
        ({"codebook": np.zeros((3, 128), np.float32)}, {}, "words beyond the codebook"),
        ({"codebook": np.zeros((3, 64), np.float32)}, {}, "expected a codebook"),
        ({"codebook": np.zeros((3, 128), np.float64)}, {}, "expected codebook of float32"),
        ({}, {"names": "[]"}, "keypoints of 0 images"),
        ({}, {"names": "[1, 2"}, "damaged"),
        ({}, {"names": "[" * 100_000}, "damaged"),
        ({}, {"names": "[1, 2, 3, 4, 5, 6]"}, "list of names"),
        ({}, {"names": None}, "no names"),
        ({}, {"keypoints": None}, "no keypoints"),
        ({}, {"detection": "{}"}, "damaged"),
        ({}, {"detection": '{"top_k": "x", "upright": 0, "region": 6, "contrast": 0}'}, "damaged"),
        (
            {},
            {"detection": '{"top_k": 9, "upright": false, "region": 6, "contrast": 0}'},
            "damaged: .*channels",
        ),
        (
            {},
            {"detection": '{"top_k": 9, "upright": false, "region": 6, "contrast": 0, "channels": "x"}'},
            "damaged: expected channels",
        ),
        ({}, {"method": "other"}, "damaged"),
        ({}, {"program": "other"}, "not an index"),
    ],
)
def test_damaged_files(indexes, tmp_path, arrays, metadata, message):
    indexes["vlad"].save(tmp_path / "good.safetensors")
    altered(tmp_path / "good.safetensors", tmp_path / "bad.safetensors", arrays, metadata)
    with pytest.raises(UserError, match=message):
        load_index(tmp_path / "bad.safetensors", model=small_descriptor())


@pytest.mark.parametrize("form", ["missing", "folder", "empty", "text", "cut", "pipe"])
def test_files_that_are_no_index(indexes, tmp_path, form):
    path = tmp_path / "x.safetensors"
    if form == "folder":
        path.mkdir()
    elif form == "cut":
        indexes["bow"].save(path)
        path.write_bytes(path.read_bytes()[:-100])
    elif form == "pipe":
        os.mkfifo(path)
    elif form != "missing":
        path.write_text("" if form == "empty" else "some text that is no index" * 9)
    with pytest.raises(UserError, match=r"x\.safetensors"):
        load_index(path, model=small_descriptor())
    if form != "pipe":
        assert not is_index(path)


def test_nan_in_a_file_is_told(indexes, tmp_path):
    indexes["vlad"].save(tmp_path / "good.safetensors")
    with safe_open(tmp_path / "good.safetensors", "numpy") as file:
        xy = file.get_tensor("xy")
    xy[3] = np.nan
    altered(tmp_path / "good.safetensors", tmp_path / "bad.safetensors", {"xy": xy})
    with pytest.raises(UserError, match="NaN"):
        load_index(tmp_path / "bad.safetensors", model=small_descriptor())


def test_without_faiss_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        build_index(drawn_scenes()[0], detector=detector())


@pytest.mark.parametrize("order", [("torch", "faiss"), ("faiss", "torch")])
def test_faiss_and_torch_compute_in_one_process(order):
    """Each brings an OpenMP of its own."""
    code = f"""
import {order[0]}, {order[1]}
import numpy as np
values = np.random.default_rng(0).random((1000, 64), np.float32)
for _ in range(2):
    layer = torch.nn.Conv2d(8, 8, 3)
    layer(torch.rand(4, 8, 32, 32)).sum().backward()
    means = faiss.Kmeans(64, 16, niter=3, seed=0)
    means.train(values)
    index = faiss.IndexFlatL2(64)
    index.add(values)
    found = index.search(values[:500], 1)[1][:, 0]
    product = torch.from_numpy(values) @ torch.from_numpy(values).T
assert (found == np.arange(500)).all()
print("ran")
"""
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "ran\n"
    assert "OMP" not in run.stderr


def test_views_of_photographs_are_found():
    folder = SHARED / "data" / "coco_mini" / "val2017"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder} (set HARDNET_SHARED)")
    from hardnet_suite.data.images import read_grey
    from hardnet_suite.data.views import change_light, random_homography, warp_image

    photographs = []
    for path in sorted(folder.glob("*.jpg"))[:8]:
        image = Image.fromarray(read_grey(path))
        image.thumbnail((240, 240))
        photographs.append(np.array(image))
    index = build_index(photographs, detector=detector(top_k=100), words=16)
    rng = np.random.default_rng(0)
    right = 0
    for number, image in enumerate(photographs):
        height, width = image.shape
        view = change_light(warp_image(image, random_homography(width, height, rng)), rng)
        right += index.search(view, verify=True)[0].number == number
    assert right >= 7


def test_names_of_files_are_paths(tmp_path):
    folder = save_collection(tmp_path / "scenes")
    index = build_index(str(folder), detector=detector())
    assert index.names == [str(folder / f"scene_{number}.png") for number in range(6)]


def test_a_name_stands_for_one_file(tmp_path, monkeypatch):
    """Names are paths as they are given, which mean other files in other folders."""
    images = list(drawn_scenes())
    for folder, image in (("d1", images[0]), ("d2", images[1])):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "a.png")
    monkeypatch.chdir(tmp_path / "d1")
    index = build_index("a.png", detector=detector())
    (hit,) = index.search(images[0])
    assert hit.file.require_same() == tmp_path / "d1" / "a.png"
    assert index.add("a.png") == 1
    monkeypatch.chdir(tmp_path / "d2")
    with pytest.raises(UserError, match=r"^a\.png: the index has another image of that name"):
        index.add("a.png")
    assert len(index) == 2
    index.save(tmp_path / "i.safetensors")
    again = load_index(tmp_path / "i.safetensors", model=small_descriptor())
    assert again.search(images[0])[0].file == hit.file
    with pytest.raises(UserError, match="of that name"):
        again.add("a.png")
    Image.fromarray(images[2]).save(tmp_path / "d1" / "a.png")
    with pytest.raises(UserError, match="has changed since it was indexed"):
        hit.file.require_same()
    monkeypatch.chdir(tmp_path / "d1")
    with pytest.raises(UserError, match=r"a\.png has changed"):
        again.add("a.png")
    (tmp_path / "d1" / "a.png").unlink()
    with pytest.raises(UserError, match="is not there any more"):
        hit.file.require_same()


def test_a_file_that_has_moved_is_the_same_image(tmp_path, monkeypatch):
    images = list(drawn_scenes())
    for folder in ("d1", "d2"):
        (tmp_path / folder).mkdir()
        Image.fromarray(images[0]).save(tmp_path / folder / "a.png")
    monkeypatch.chdir(tmp_path / "d1")
    index = build_index(["a.png"], detector=detector())
    index.save(tmp_path / "i.safetensors")
    monkeypatch.chdir(tmp_path / "d2")
    places = {tmp_path / "d1" / "a.png", tmp_path / "d2" / "a.png"}
    assert index.add("a.png") == 1
    assert {hit.file.require_same() for hit in index.search(images[0])} == places  # each its own
    (tmp_path / "d1" / "a.png").unlink()
    again = load_index(tmp_path / "i.safetensors", model=small_descriptor())
    assert again.add("a.png") == 1
    assert {hit.file.require_same() for hit in again.search(images[0])} == {tmp_path / "d2" / "a.png"}


def test_names_of_other_files_are_told_before_anything_is_described(tmp_path, monkeypatch):
    images = list(drawn_scenes())
    for number, folder in enumerate(("d1", "d2")):
        (tmp_path / folder).mkdir()
        for name in "abc":
            Image.fromarray(images[number if name == "c" else 2]).save(tmp_path / folder / f"{name}.png")
    monkeypatch.chdir(tmp_path / "d1")
    index = build_index(["a.png", "c.png"], detector=detector())
    monkeypatch.chdir(tmp_path / "d2")
    monkeypatch.setattr(index_module, "_described", lambda *_: pytest.fail("an image is described"))
    (tmp_path / "d2" / "none.png").symlink_to("nowhere")
    for names in (["b.png", "none.png", "c.png"], "*.png"):
        with pytest.raises(UserError, match=r"^c\.png: the index has another image of that name"):
            index.add(names)
    assert len(index) == 2


@pytest.mark.parametrize("files", ['["a"]', '[["a", "b"]]', '[["a"], null]', "{", '[[1, 2], ["a", "b"]]'])
def test_files_of_a_damaged_index(tmp_path, files):
    index = build_index(list(drawn_scenes())[:2], detector=detector())
    assert index.search(next(iter(drawn_scenes())))[0].file is None
    index.save(tmp_path / "i.safetensors")
    altered(tmp_path / "i.safetensors", tmp_path / "j.safetensors", metadata={"files": files})
    with pytest.raises(UserError, match="is damaged"):
        load_index(tmp_path / "j.safetensors", model=small_descriptor())


def test_the_same_index_is_the_same_file(indexes, tmp_path):
    contents = set()
    for number in range(6):
        indexes["bow"].save(tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    load_index(tmp_path / "0.safetensors", model=small_descriptor()).save(tmp_path / "again.safetensors")
    assert contents == {(tmp_path / "again.safetensors").read_bytes()}


def test_an_image_in_memory_is_no_file_of_its_name(tmp_path, monkeypatch):
    """Arrays have names such as "image", which a file may have as well."""
    monkeypatch.chdir(tmp_path)
    images = list(drawn_scenes())[:2]
    for name in ("image", "image 0", "image 1", "0", "1"):
        Image.fromarray(images[1]).save(tmp_path / name, "PNG")
    index = build_index(images, detector=detector())
    index.add(images[0])
    assert [hit.file for hit in index.search(images[0])] == [None] * 3
