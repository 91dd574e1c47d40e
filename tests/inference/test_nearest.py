from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hardnet_suite.inference import nearest
from hardnet_suite.inference.nearest import mutual_matches, nearest_neighbours


def brute_force(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every distance in float64; equal ones in the order of their indices."""
    distances = np.sqrt(((a[:, None].astype(float) - b[None].astype(float)) ** 2).sum(-1))
    order = np.argsort(distances, axis=1, kind="stable")
    return order, np.take_along_axis(distances, order, axis=1)


def unit_rows(rng: np.random.Generator, count: int, length: int = 128) -> np.ndarray:
    rows = rng.normal(size=(count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


small_integers = st.integers(-2, 2).map(float)


def sets(count: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    return count.flatmap(lambda n: arrays(np.float32, (n, 3), elements=small_integers))


@settings(deadline=None, max_examples=60)
@given(sets(st.integers(0, 12)), sets(st.integers(1, 12)), st.integers(1, 4))
def test_neighbours_are_those_of_brute_force_ties_included(a, b, k):
    indices, distances = nearest_neighbours(a, b, k)
    order, expected = brute_force(a, b)
    assert indices.dtype == np.int64
    assert distances.dtype == np.float32
    np.testing.assert_array_equal(indices, order[:, :k])
    np.testing.assert_allclose(distances, expected[:, :k], rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 1 << 10, 1 << 24])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_chunks_change_nothing(monkeypatch, at_once, precision):
    monkeypatch.setattr(nearest, "_AT_ONCE", at_once)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    rng = np.random.default_rng(0)
    a, b = unit_rows(rng, 60), unit_rows(rng, 47)
    b[20:24] = b[3]
    a[:5] = b[3]
    order, expected = brute_force(a, b)
    indices, distances = nearest_neighbours(a, b, 6)
    np.testing.assert_array_equal(indices, order[:, :6])
    np.testing.assert_allclose(distances, expected[:, :6], atol=1e-7)


def test_neighbours_that_products_cannot_tell_apart():
    """Far from the origin, float32 products lose the last digits of the distances."""
    rng = np.random.default_rng(1)
    b = (1000 + rng.normal(scale=1e-2, size=(300, 16))).astype(np.float32)
    a = (1000 + rng.normal(scale=1e-2, size=(40, 16))).astype(np.float32)
    order, expected = brute_force(a, b)
    indices, distances = nearest_neighbours(a, b, 2)
    np.testing.assert_array_equal(indices, order[:, :2])
    np.testing.assert_allclose(distances, expected[:, :2], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
@pytest.mark.parametrize("offset", [2**24, 2**31 - 10, 2**40, 2**53 - 10])
def test_integers_that_float32_cannot_hold(dtype, offset):
    if offset > np.iinfo(dtype).max:
        pytest.skip("beyond the dtype")
    b = np.array([[offset + 2, 3], [offset + 1, 3], [offset, 3]], dtype)
    a = b[1:]
    indices, distances = nearest_neighbours(a, b, 2)
    assert indices.tolist() == [[1, 0], [2, 1]]
    assert distances.tolist() == [[0, 1], [0, 1]]
    assert mutual_matches(a, b)[0].tolist() == [[0, 1], [1, 2]]
    assert mutual_matches(torch.from_numpy(a), torch.from_numpy(b))[0].tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_the_ends_of_small_integers(dtype):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    b = np.array([[high], [high - 1], [low + 1], [low]], dtype)
    assert nearest_neighbours(b, b)[0][:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_integers_that_float64_cannot_hold_are_refused(value):
    values = np.array([[value], [0]])
    with pytest.raises(ValueError, match=r"integers beyond 2\^53"):
        nearest_neighbours(values, values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [-142, -132, -100, -73, -63, 60, 62, 63, 64, 66, 100, 123])
@pytest.mark.parametrize("length", [1, 3, 16])
@pytest.mark.parametrize("is_flushed", [False, True])
def test_values_whose_squares_are_beyond_float32(dtype, exponent, length, is_flushed):
    if is_flushed and exponent < -126:
        pytest.skip("the values themselves are flushed to zero")
    rng = np.random.default_rng(0)
    a, b = (np.ldexp(rng.integers(-3, 4, (count, length)).astype(dtype), exponent) for count in (30, 40))
    b[::4] *= 128 if exponent < 0 else 1 / 128
    order, expected = brute_force(a, b)
    torch.set_flush_denormal(is_flushed)
    try:
        indices, distances = nearest_neighbours(a, b, 3)
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_array_equal(indices, order[:, :3])
    np.testing.assert_allclose(distances, expected[:, :3], rtol=1e-6, atol=1e-45)


def test_squares_that_overflow_have_no_wrong_neighbour():
    b = np.array([[1e20], [3e20], [2e20]], np.float32)
    assert nearest_neighbours(b, b)[0][:, 0].tolist() == [0, 1, 2]
    assert mutual_matches(b, b, 0.9)[0].tolist() == [[0, 0], [1, 1], [2, 2]]


@pytest.mark.parametrize("value", [1e40, 1e150, 1e160, 1e300])
def test_distances_beyond_float32_are_refused(value):
    a, b = np.array([[0.0]]), np.array([[2 * value], [value]])
    for search in (nearest_neighbours, mutual_matches):
        with pytest.raises(ValueError, match="beyond the range of float32"):
            search(a, b)
    assert nearest_neighbours(b, b)[0][:, 0].tolist() == [0, 1]


def test_the_ratio_of_distances_that_float32_cannot_tell_apart():
    """They are compared in float64."""
    a, b = np.array([[0.0], [8e-46]]), np.array([[1e-46], [9e-46]])
    assert mutual_matches(a, b, 0.9)[0].tolist() == [[0, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    rng = np.random.default_rng(2)
    b = torch.from_numpy(unit_rows(rng, 500, 16))
    a = b + 0.01 * torch.from_numpy(unit_rows(rng, 500, 16))
    expected = nearest_neighbours(a, b, 2)
    pairs = mutual_matches(a, b, 0.9)[0]
    with torch.autocast("cpu", dtype):
        indices, distances = nearest_neighbours(a, b, 2)
        assert torch.equal(mutual_matches(a, b, 0.9)[0], pairs)
    assert torch.equal(indices, expected[0])
    assert torch.equal(distances, expected[1])


def test_a_precision_set_by_backend_changes_nothing():
    """PyTorch then has no one precision to tell, which is a RuntimeError."""
    code = """
import torch
from hardnet_suite.inference.nearest import nearest_neighbours
values = torch.nn.functional.normalize(torch.rand(400, 64, generator=torch.Generator().manual_seed(0)))
expected = nearest_neighbours(values, values, 3)
torch.backends.fp32_precision = "tf32"
try:
    torch.get_float32_matmul_precision()
except RuntimeError:
    print("no one precision")
found = nearest_neighbours(values, values, 3)
assert all(torch.equal(*pair) for pair in zip(found, expected))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "no one precision\n"


@settings(deadline=None, max_examples=60)
@given(sets(st.integers(1, 12)), sets(st.integers(1, 12)))
def test_mutual_matches_are_those_of_opencv_ties_included(a, b):
    cv2 = pytest.importorskip("cv2")
    expected = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(a, b)
    expected = sorted(expected, key=lambda match: match.queryIdx)
    pairs, distances = mutual_matches(a, b)
    assert [tuple(pair) for pair in pairs.tolist()] == [(m.queryIdx, m.trainIdx) for m in expected]
    np.testing.assert_allclose(distances, [m.distance for m in expected], rtol=1e-6)


@settings(deadline=None, max_examples=60)
@given(sets(st.integers(0, 10)), sets(st.integers(0, 10)), st.sampled_from([None, 0.6, 0.9, 1.0]))
def test_mutual_matches_by_their_definition_and_symmetric(a, b, ratio):
    expected = []
    if len(a) and len(b) and (ratio is None or min(len(a), len(b)) > 1):
        to_b, there = brute_force(a, b)
        to_a, back = brute_force(b, a)
        for i, j in enumerate(to_b[:, 0]):
            unambiguous = ratio is None or (
                there[i, 0] < ratio * there[i, 1] and back[j, 0] < ratio * back[j, 1]
            )
            if to_a[j, 0] == i and unambiguous:
                expected.append([i, j])
    pairs, distances = mutual_matches(a, b, ratio)
    assert pairs.tolist() == expected
    assert pairs.shape == (len(expected), 2)
    reverse, _ = mutual_matches(b, a, ratio)
    assert sorted(reverse[:, ::-1].tolist()) == expected
    np.testing.assert_allclose(
        distances, np.linalg.norm(a[pairs[:, 0]] - b[pairs[:, 1]], axis=1), rtol=1e-6, atol=1e-7
    )


def test_duplicates_have_no_unambiguous_match():
    a = np.eye(3, dtype=np.float32)
    b = np.concatenate([a, a[:1]])
    assert mutual_matches(a, b)[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert mutual_matches(a, b, ratio=1.0)[0].tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize(("count", "other"), [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("ratio", [None, 0.8])
def test_nothing_matches_nothing(count, other, ratio):
    pairs, distances = mutual_matches(np.zeros((count, 8)), np.zeros((other, 8)), ratio)
    assert pairs.shape == (0, 2)
    assert pairs.dtype == np.int64
    assert distances.shape == (0,)
    indices, _ = nearest_neighbours(np.zeros((count, 8)), np.zeros((other, 8)), k=3)
    assert indices.shape == (count, min(3, other))


def test_one_descriptor_has_no_second_nearest():
    rng = np.random.default_rng(0)
    a, b = unit_rows(rng, 5), unit_rows(rng, 1)
    assert len(mutual_matches(a, b)[0]) == 1
    assert len(mutual_matches(a, b, 0.9)[0]) == len(mutual_matches(b, a, 0.9)[0]) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
def test_tensors_stay_tensors_and_any_dtype_is_compared(dtype):
    rng = np.random.default_rng(2)
    a, b = (torch.from_numpy(100 + 50 * unit_rows(rng, n)).to(dtype) for n in (20, 30))
    pairs, distances = mutual_matches(a, b)
    expected, _ = mutual_matches(a.double().numpy(), b.double().numpy())
    assert isinstance(pairs, torch.Tensor)
    assert distances.dtype == torch.float32
    assert pairs.tolist() == expected.tolist()


def test_the_ratio_test_is_that_of_kornia():
    feature = pytest.importorskip("kornia.feature")
    rng = np.random.default_rng(3)
    b = unit_rows(rng, 200)
    a = b[rng.permutation(200)] + rng.normal(scale=0.12, size=(200, 128)).astype(np.float32)
    _, expected = feature.match_smnn(torch.from_numpy(a), torch.from_numpy(b), 0.8)
    pairs, _ = mutual_matches(a, b, 0.8)
    assert 0 < len(pairs) < 200
    assert pairs.tolist() == sorted(expected.tolist())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_values_that_are_not_finite_are_refused(value, side):
    pair = [np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)]
    pair[side][1, 2] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        mutual_matches(*pair)
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest_neighbours(*pair)


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        (np.zeros(4), np.zeros((3, 4)), {}, r"shape \(N, D\), got \(4,\)"),
        (np.zeros((3, 0)), np.zeros((3, 0)), {}, r"got \(3, 0\)"),
        (np.zeros((3, 4)), np.zeros((3, 5)), {}, "one length, got 4 and 5"),
        (np.zeros((3, 4), complex), np.zeros((3, 4)), {}, "real"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {"ratio": 0}, r"ratio in \(0, 1\], got 0"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {"ratio": 1.5}, "got 1.5"),
        (np.zeros((3, 4)), np.zeros((3, 4)), {"ratio": float("nan")}, "got nan"),
    ],
)
def test_bad_arguments(a, b, options, message):
    with pytest.raises(ValueError, match=message):
        mutual_matches(a, b, **options)


@pytest.mark.parametrize("form", ["read-only", "fortran", "reversed", "byte order", "list", "boolean"])
def test_every_form_of_array(form):
    rng = np.random.default_rng(0)
    plain = (rng.random((20, 6)) > 0.5) if form == "boolean" else unit_rows(rng, 20, 6)
    expected, _ = nearest_neighbours(plain.astype(np.float64), plain.astype(np.float64), 3)
    forms = {
        "read-only": plain.copy(),
        "fortran": np.asfortranarray(plain),
        "reversed": plain[::-1].copy()[::-1],
        "byte order": plain.astype(plain.dtype.newbyteorder()),
        "list": plain.tolist(),
    }
    values = forms.get(form, plain)
    if form == "read-only":
        values.flags.writeable = False
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(nearest_neighbours(values, values, 3)[0], expected)
        mutual_matches(values, values)


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1, None]]),
        np.array([[1.0, 2.0]], object),
        np.array([["1", "2"]]),
        np.array([["2020-01-01"]], "datetime64[D]"),
        np.zeros((2, 2), np.longdouble),
        np.zeros((2, 2), complex),
        [[1, 2], [3]],
        None,
    ],
)
def test_arrays_of_other_things_are_refused(values):
    for pair in ((values, np.zeros((2, 2))), (np.zeros((2, 2)), values)):
        with pytest.raises(ValueError, match=r"real descriptors|inhomogeneous"):
            nearest_neighbours(*pair)


@pytest.mark.parametrize("dtype", [int, np.int64, np.int8, np.uint16])
def test_counts_of_any_integer_type(dtype):
    assert nearest_neighbours(np.zeros((3, 4)), np.zeros((3, 4)), dtype(2))[0].shape == (3, 2)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, np.bool_(True), np.int64(0), np.float64(2), None, "2"])
def test_bad_counts(k):
    with pytest.raises(ValueError, match="k of at least 1"):
        nearest_neighbours(np.zeros((3, 4)), np.zeros((3, 4)), k)
