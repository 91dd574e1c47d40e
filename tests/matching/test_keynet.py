from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_pairs import corner_error, drawn_pair, small_descriptor
from hypothesis import given
from hypothesis import strategies as st

from hardnet_suite.data.images import to_grey
from hardnet_suite.errors import UserError
from hardnet_suite.matching import HardNetDetector, KeyNetDetector, Keypoints, match_images
from hardnet_suite.matching.keynet import fill_published, sizes_angles_shapes

feature = pytest.importorskip("kornia.feature")


def networks() -> dict[str, torch.nn.Module]:
    return {
        "keynet": feature.KeyNet(pretrained=False),
        "affnet": feature.LAFAffNetShapeEstimator(pretrained=False),
        "orinet": feature.OriNet(pretrained=False),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """Random weights in the authors' layout: in a dictionary, and without batch counters."""
    folder = tmp_path_factory.mktemp("peers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = networks()
    torch.nn.init.ones_(made["keynet"].last_conv[0].bias)  # a response everywhere
    with torch.no_grad():
        made["affnet"].features[19].bias.copy_(torch.tensor([0.3, 0.1, -0.2]))
    files = {}
    for name, network in made.items():
        state = {key: v for key, v in network.state_dict().items() if "num_batches" not in key}
        files[name] = folder / f"{name}.pth"
        torch.save({"epoch": 3, "state_dict": state}, files[name])
    return files


@pytest.fixture(scope="module")
def keynet(files) -> KeyNetDetector:
    return KeyNetDetector(**files)


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return to_grey(drawn_pair()[0])[:200, :240]


@pytest.mark.parametrize("name", ["keynet", "affnet", "orinet"])
def test_files_survive_the_round_trip(files, name, tmp_path):
    """From the authors' layout into the network, out as Kornia's own state dict, and in again."""
    expected = torch.load(files[name])["state_dict"]
    network = networks()[name]
    fill_published(network, files[name], name)
    torch.save(network.state_dict(), tmp_path / "kornia.pth")
    again = networks()[name]
    fill_published(again, tmp_path / "kornia.pth", name)
    for key, values in expected.items():
        torch.testing.assert_close(again.state_dict()[key], values, rtol=0, atol=0)


def test_the_frames_are_those_of_kornia(files, keynet, grey):
    modules = networks()
    for name, module in modules.items():
        fill_published(module, files[name], name)
    theirs = feature.KeyNetDetector(
        pretrained=False,
        num_features=50,
        aff_module=modules["affnet"].eval(),
        ori_module=feature.LAFOrienter(angle_detector=modules["orinet"].eval()),
    )
    theirs.model = modules["keynet"]
    with torch.inference_mode():
        lafs, responses = theirs.eval()(torch.from_numpy(grey)[None, None].float() / 255)
    found = responses[0] > 0
    assert found.sum() >= 20
    frames, strengths = keynet.frames(grey, top_k=50)
    np.testing.assert_allclose(frames, lafs[0, found], atol=1e-3)
    np.testing.assert_allclose(strengths, responses[0, found], rtol=1e-5)
    assert (np.diff(strengths) <= 0).all()


@given(st.lists(st.tuples(*[st.floats(-30, 30, allow_subnormal=False)] * 6), max_size=5), st.floats(0.5, 20))
def test_keypoints_hold_any_frame(rows, region):
    frames = np.array(rows, np.float64).reshape(-1, 2, 3)
    frames = frames[np.linalg.det(frames[:, :, :2]) > 1]
    sizes, angles, shapes = sizes_angles_shapes(frames)
    keypoints = Keypoints(frames[:, :, 2], sizes, angles, sizes, shapes)
    np.testing.assert_allclose(keypoints.frames(), frames, atol=1e-3)
    scaled = keypoints.frames(region)[:, :, :2]
    np.testing.assert_allclose(scaled, keypoints.frames()[:, :, :2] * region / 6, atol=1e-2)
    assert ((angles >= 0) & (angles < 360.001)).all()
    assert len(keypoints[:1].shape) == min(1, len(frames))


def test_square_frames_have_the_size_and_angle_of_opencv():
    keypoints = Keypoints(
        *(np.array(v, np.float32) for v in ([[9, 8]] * 3, [2, 3, 4], [0, 30, 270], [1] * 3))
    )
    sizes, angles, shapes = sizes_angles_shapes(keypoints.frames())
    np.testing.assert_allclose(sizes, keypoints.size, rtol=1e-5)
    np.testing.assert_allclose(angles, keypoints.angle, atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(shapes), 1, rtol=1e-5)


def test_described_where_it_detects(keynet, grey):
    detector = HardNetDetector(small_descriptor(), detector=keynet, top_k=30)
    keypoints, descriptors = detector.detectAndCompute(grey)
    assert len(keypoints) == len(descriptors) > 20
    lafs = detector.detect_lafs(grey)
    assert torch.linalg.cond(lafs[0, :, :, :2]).max() > 1.05  # affine, not square
    np.testing.assert_allclose(detector.describe_lafs(grey, lafs)[0], descriptors, atol=0.02)
    assert [point.pt for point in detector.detect(grey)] == [point.pt for point in keypoints]


def test_masks_and_options(files, keynet, grey):
    mask = np.zeros(grey.shape, np.uint8)
    mask[:, 120:] = 1
    everything, _ = keynet.frames(grey, top_k=None)
    masked, _ = keynet.frames(grey, mask, top_k=None)
    assert 0 < len(masked) < len(everything)
    assert (masked[:, 0, 2] >= 120).all()
    upright, _ = keynet.frames(grey, top_k=20, upright=True)
    np.testing.assert_allclose(upright[:, 0, 1], 0, atol=1e-5)  # AffNet keeps the vertical
    np.testing.assert_allclose(
        KeyNetDetector(files["keynet"], affnet=files["affnet"]).frames(grey, top_k=20)[0], upright
    )
    squares, _ = KeyNetDetector(files["keynet"]).frames(grey, top_k=20)
    np.testing.assert_allclose(squares[:, 0, 0], squares[:, 1, 1])
    np.testing.assert_allclose(squares[:, :, 2], upright[:, :, 2], atol=1e-4)


@pytest.mark.parametrize("parts", [["keynet"], ["keynet", "affnet"]])
def test_upright_without_orinet_is_refused(files, grey, parts):
    without = KeyNetDetector(**{part: files[part] for part in parts})
    with pytest.raises(ValueError, match="has none"):
        HardNetDetector(small_descriptor(), detector=without, upright=True)
    with pytest.raises(ValueError, match="has none"):
        match_images(grey, grey, model=small_descriptor(), detector=without, upright=True)
    with pytest.raises(ValueError, match="has none"):
        without.frames(grey, upright=True)


@pytest.mark.parametrize("angle", [-1e-6, -1e-20, 0.0, 1e-6, 180.0, -180.0, -90.0, 359.99999999])
def test_angles_are_below_360_degrees(angle):
    radians = np.radians(angle)
    turned = [[np.cos(radians), -np.sin(radians), 5], [np.sin(radians), np.cos(radians), 5]]
    (found,) = sizes_angles_shapes(np.array([turned]))[1]
    assert found.dtype == np.float32
    assert 0 <= found < 360
    assert abs((found - angle + 180) % 360 - 180) < 1e-4


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (22, 90), (29, 31), (31, 200), (64, 33)])
def test_small_and_constant_images(keynet, grey, shape):
    detector = HardNetDetector(small_descriptor(), detector=keynet)
    features = detector.features(np.full(shape, 90, np.uint8))
    assert features.descriptors.shape == (len(features.keypoints), 128)
    features = detector.features(grey[: shape[0], : shape[1]])
    assert features.descriptors.shape == (len(features.keypoints), 128)
    assert features.keypoints.frames().shape == (len(features.keypoints), 2, 3)


def test_other_files_are_refused(files, tmp_path):
    with pytest.raises(UserError, match="does not hold the weights of AffNet"):
        KeyNetDetector(files["keynet"], affnet=files["orinet"])
    with pytest.raises(UserError, match=r"does not hold the weights of Key\.Net"):
        KeyNetDetector(files["affnet"])
    with pytest.raises(UserError, match="no such file"):
        KeyNetDetector(files["keynet"], orinet=tmp_path / "none.pth")
    state = torch.load(files["keynet"])["state_dict"]
    partial = tmp_path / "partial.pth"
    torch.save({"state_dict": {key: v for key, v in state.items() if key != "last_conv.0.bias"}}, partial)
    with pytest.raises(UserError, match=r"does not hold the weights of Key\.Net"):
        KeyNetDetector(partial)
    torch.save({"state_dict": "text", "values": torch.ones(1)}, partial)
    with pytest.raises(UserError, match=r"does not hold the weights of Key\.Net"):
        KeyNetDetector(partial)
    torch.save({key: v * torch.nan for key, v in state.items()}, partial)
    with pytest.raises(UserError, match="NaN"):
        KeyNetDetector(partial)
    torch.save({key: v.double() + 1e300 for key, v in state.items()}, partial)
    with pytest.raises(UserError, match=r"partial\.pth: \d+ tensors hold values that the network's float32"):
        KeyNetDetector(partial)
    with pytest.raises(UserError, match="cannot compute on the device nowhere"):
        KeyNetDetector(files["keynet"], device="nowhere")
    with pytest.raises(UserError, match="cannot compute on the device"):
        KeyNetDetector(files["keynet"], device="")


def test_without_kornia(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    monkeypatch.setitem(sys.modules, "kornia.feature", None)
    with pytest.raises(UserError, match=r"hardnet-suite\[descriptor\].*kornia>=0\.9"):
        KeyNetDetector(files["keynet"])


def test_the_contrast_is_sifts(keynet):
    with pytest.raises(ValueError, match="contrast is for SIFT"):
        HardNetDetector(small_descriptor(), detector=keynet, contrast=0.04)


def test_the_published_files_match_a_turned_image(shared):
    folder = shared / "data" / "local_features"
    if not (folder / "AffNet.pth").exists():
        pytest.skip(f"no {folder}")
    keynet = KeyNetDetector(
        folder / "keynet_pytorch.pth", affnet=folder / "AffNet.pth", orinet=folder / "OriNet.pth"
    )
    matches = match_images(*drawn_pair(), model=small_descriptor(), detector=keynet, top_k=300)
    assert matches.geometry is not None
    assert corner_error(matches.matrix) < 4


@pytest.fixture(scope="module")
def saved_index(keynet, grey, tmp_path_factory):
    """An index of two images by Key.Net's keypoints, and its file."""
    pytest.importorskip("faiss")
    from hardnet_suite.matching.index import build_index

    describer = HardNetDetector(small_descriptor(), top_k=60, detector=keynet, channels="rgb")
    index = build_index([grey, np.ascontiguousarray(grey[::-1])], detector=describer, words=4)
    path = tmp_path_factory.mktemp("index") / "index.safetensors"
    index.save(path)
    return index, path


def test_an_index_of_its_keypoints_answers_the_same_when_loaded(saved_index, files, grey):
    from hardnet_suite.matching.index import load_index

    index, path = saved_index
    loaded = load_index(path, model=small_descriptor(), detector=KeyNetDetector(**files))
    assert loaded.search(grey, verify=True) == index.search(grey, verify=True)
    assert loaded.search(grey)[0].score == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("form", ["SIFT", "upright", "affnet", "weights"])
def test_an_index_of_other_keypoints_is_not_searched(saved_index, files, form, tmp_path):
    from hardnet_suite.matching.index import load_index

    others = dict(files)
    if form == "upright":
        del others["orinet"]
    elif form == "affnet":
        del others["affnet"]
    elif form == "weights":
        content = torch.load(files["keynet"])
        content["state_dict"]["last_conv.0.bias"] += 1
        others["keynet"] = tmp_path / "other.pth"
        torch.save(content, others["keynet"])
    detector = None if form == "SIFT" else KeyNetDetector(**others)
    with pytest.raises(UserError, match="was made with keypoints of keynet and affnet and orinet"):
        load_index(saved_index[1], model=small_descriptor(), detector=detector)


def test_an_index_of_sift_is_not_searched_with_key_net(keynet, grey, tmp_path):
    pytest.importorskip("faiss")
    from hardnet_suite.matching.index import build_index, load_index

    path = tmp_path / "index.safetensors"
    build_index(grey, detector=HardNetDetector(small_descriptor(), top_k=60), words=4).save(path)
    with pytest.raises(UserError, match="keypoints of SIFT, not of keynet"):
        load_index(path, model=small_descriptor(), detector=keynet)


def test_an_index_of_unknown_keypoints_is_not_saved(keynet, grey, tmp_path):
    pytest.importorskip("faiss")
    from hardnet_suite.matching.index import build_index

    class Other:
        frames, check_upright = keynet.frames, keynet.check_upright

    describer = HardNetDetector(small_descriptor(), top_k=60, detector=Other())
    index = build_index(grey, detector=describer, words=4)
    with pytest.raises(ValueError, match=r"SIFT or a KeyNetDetector .* got a Other"):
        index.save(tmp_path / "index.safetensors")
    assert not list(tmp_path.iterdir())
