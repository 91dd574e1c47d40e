from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from drawn_pairs import small_descriptor

from hardnet_suite import create_model
from hardnet_suite.deploy import export
from hardnet_suite.errors import UserError
from hardnet_suite.inference import resize_patches
from hardnet_suite.matching import HardNetDetector, describe, load_descriptor
from hardnet_suite.matching.patches import open_descriptor
from hardnet_suite.weights import convert_official
from hardnet_suite.weights.registry import find


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return small_descriptor()


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 65, 65), np.uint8)


def test_descriptors_are_those_of_the_network(network, patches):
    descriptors = describe(network, patches)
    with torch.inference_mode():
        expected = network(resize_patches(torch.from_numpy(patches)))
    assert descriptors.dtype == np.float32
    assert descriptors.shape == (9, 128)
    torch.testing.assert_close(torch.from_numpy(descriptors), expected)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, rtol=1e-5)


def test_the_originals_descriptors_of_32_pixels(golden):
    network = create_model("hardnet_descriptor")
    network.load_state_dict(convert_official("hardnet_descriptor", golden.state_dict("hardnet_descriptor")))
    descriptors = describe(network, golden.input("hardnet_descriptor"))
    expected = golden.outputs("hardnet_descriptor")["out"]
    np.testing.assert_allclose(descriptors, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("batch_size", [1, 2, 9, 100])
def test_batches_change_nothing_but_rounding(network, patches, batch_size):
    expected = np.concatenate([describe(network, patches[i : i + 1]) for i in range(len(patches))])
    np.testing.assert_allclose(describe(network, patches, batch_size=batch_size), expected, atol=1e-6)


@pytest.mark.parametrize("form", ["array", "tensor", "channel", "float", "double", "noncontiguous"])
def test_all_forms_of_patches_give_one_answer(network, patches, form):
    given = {
        "array": patches,
        "tensor": torch.from_numpy(patches),
        "channel": patches[:, None],
        "float": torch.from_numpy(patches)[:, None].float() / 255,
        "double": patches / 255,
        "noncontiguous": np.repeat(patches, 2, axis=0)[::2],
    }[form]
    np.testing.assert_allclose(describe(network, given), describe(network, patches), atol=1e-5)


def test_the_network_is_left_as_it_was_and_used_in_eval_mode(patches):
    network = small_descriptor().train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    descriptors = describe(network, patches)
    assert network.training
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    np.testing.assert_array_equal(descriptors, describe(network.eval(), patches))


def test_frozen_batch_norms_stay_frozen(patches):
    network = small_descriptor().train()
    frozen = next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)).eval()
    before = [module.training for module in network.modules()]
    describe(network, patches)
    assert not frozen.training
    assert [module.training for module in network.modules()] == before


def test_two_threads_describe_with_one_network_in_training_mode(patches):
    network = small_descriptor().train()
    expected = describe(network, patches)
    numbers = itertools.count()
    inside, left = [threading.Event(), threading.Event()], threading.Event()

    def hold(*_):  # the first to come leaves while the second is inside
        number = next(numbers)
        inside[number].set()
        assert (left if number else inside[1]).wait(60)

    network.features[0].register_forward_pre_hook(hold)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(describe, network, patches)
        assert inside[0].wait(60)
        second = pool.submit(describe, network, patches)
        np.testing.assert_array_equal(first.result(), expected)
        left.set()
        np.testing.assert_array_equal(second.result(), expected)
    assert all(module.training for module in network.modules())


def test_no_patches_have_no_descriptors(network):
    assert describe(network, np.zeros((0, 65, 65), np.uint8)).shape == (0, 128)


def test_constant_patches_have_finite_descriptors(network):
    constant = np.stack([np.full((65, 65), value, np.uint8) for value in (0, 128, 255)])
    descriptors = describe(network, constant)
    assert np.isfinite(descriptors).all()
    np.testing.assert_allclose(descriptors, descriptors[:1].repeat(3, 0), atol=1e-6)


def test_bf16_computes_in_bfloat16(network, patches):
    single, half = (describe(network, patches, bf16=bf16) for bf16 in (False, True))
    assert half.dtype == np.float32
    assert not np.array_equal(single, half)
    assert (single * half).sum(1).min() > 0.99


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(network, value):
    broken = np.zeros((3, 32, 32), np.float32)
    broken[1, 2, 3] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        describe(network, broken)


def test_damaged_weights_are_told(patches):
    network = small_descriptor()
    with torch.no_grad():
        network.features[0].weight[0] = float("nan")
    with pytest.raises(UserError, match="weights are damaged"):
        describe(network, patches)


@pytest.mark.parametrize(
    ("patches", "options", "message"),
    [
        (np.zeros((2, 32, 30), np.uint8), {}, r"square patches.*\(2, 1, 32, 30\)"),
        (np.zeros((2, 3, 32, 32), np.uint8), {}, "square patches"),
        (np.zeros((32, 32), np.uint8), {}, "square patches"),
        (np.zeros((2, 32, 32), np.uint16), {}, "uint8.*got .*uint16"),
        (np.zeros((2, 32, 32), bool), {}, "got bool"),
        (np.zeros((2, 32, 32), complex), {}, "got complex"),
        (torch.zeros(2, 32, 32, dtype=torch.int64), {}, "got torch.int64"),
        (np.zeros((2, 32, 32), np.uint8), {"batch_size": 0}, "at least 1, got 0"),
    ],
)
def test_bad_patches(network, patches, options, message):
    with pytest.raises(ValueError, match=message):
        describe(network, patches, **options)


@pytest.mark.parametrize("model", [torch.nn.Identity(), "hardnet_descriptor", None])
def test_other_models_are_refused(model):
    with pytest.raises(ValueError, match="expected a patch descriptor"):
        describe(model, np.zeros((1, 32, 32), np.uint8))


def test_weights_of_a_file_are_told_by_their_keys(golden, tmp_path, patches):
    path = tmp_path / "checkpoint_liberty_with_aug.pth"
    torch.save({"epoch": 9, "state_dict": golden.state_dict("hardnet_descriptor")}, path)
    network = create_model("hardnet_descriptor", pretrained=path)
    expected = describe(network, patches)
    for given in ({"model": path}, {"weights": path}, {"model": "HardNet-Descriptor", "weights": str(path)}):
        loaded = load_descriptor(**given)
        assert not loaded.training
        assert loaded.weights == str(path)
        np.testing.assert_allclose(describe(loaded, patches), expected, atol=1e-6)


def test_models_that_describe_no_patches(tmp_path):
    with pytest.raises(UserError, match=r"neither a patch descriptor nor a file.*hardnet_descriptor"):
        load_descriptor("hardnet68")
    with pytest.raises(UserError, match="not a patch descriptor"):
        load_descriptor("hardnet68", weights="published")
    with pytest.raises(UserError, match="neither a file nor a tag"):
        load_descriptor(weights="libertyy")
    with pytest.raises(UserError, match=r"no\.pth"):
        load_descriptor(weights=tmp_path / "no.pth")
    path = tmp_path / "classifier.pth"
    torch.save(create_model("hardnet39ds", num_classes=2).state_dict(), path)
    with pytest.raises(UserError, match="weights of hardnet39ds"):
        load_descriptor(path)


def test_a_tag_is_not_a_folder_of_that_name(golden, tmp_path, monkeypatch):
    """Brown's sets lie in folders that are called as the weights trained on them."""
    (tmp_path / "liberty").mkdir()
    row = find("hardnet_descriptor", "liberty")
    torch.save(golden.state_dict("hardnet_descriptor"), tmp_path / row.urls[0].file)
    monkeypatch.setenv("HARDNET_WEIGHTS_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert "the weights 'liberty'" in load_descriptor(weights="liberty").weights


@pytest.mark.parametrize("bf16", [False, True])
def test_an_engine_is_told_the_precision_when_its_file_is_opened(tmp_path, patches, bf16):
    openvino = pytest.importorskip("openvino")
    if bf16 and "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has no bfloat16 on this processor")
    network = load_descriptor()
    path = export(network, tmp_path / "patches.xml")
    model = open_descriptor(path, bf16=bf16)
    assert model.precision == ("bf16" if bf16 else "fp32")
    assert HardNetDetector(str(path), bf16=bf16).model.precision == model.precision
    found, expected = (describe(each, patches, bf16=bf16) for each in (model, network))
    np.testing.assert_allclose(found, expected, atol=0.02 if bf16 else 1e-4)


def test_a_file_that_normalises_takes_patches_of_8_bits_that_need_no_resizing(tmp_path):
    network = load_descriptor()
    model = load_descriptor(export(network, tmp_path / "patches.pt", preprocess=True))
    patches = np.random.default_rng(0).integers(0, 256, (3, 65, 65), np.uint8)
    whole = patches[:, :32, :32]
    np.testing.assert_allclose(describe(model, whole), describe(network, whole), atol=1e-4)
    with pytest.raises(UserError, match="resized to 32×32 have fractional values; export it without --with"):
        describe(model, patches)
