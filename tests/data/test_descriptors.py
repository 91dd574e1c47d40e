from __future__ import annotations

import zipfile

import numpy as np
import pytest

from hardnet_suite.data.descriptors import (
    DescriptorFolder,
    is_descriptors,
    read_descriptors,
    require_described,
    write_descriptors,
)
from hardnet_suite.errors import UserError

VALUES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ref.csv", {"delimiter": ","}),
        ("ref.csv", {"delimiter": ";", "fmt": "%.9e"}),
        ("ref.txt", {"delimiter": " ", "fmt": "%10.5f"}),
        ("ref.TXT", {"delimiter": "\t"}),
    ],
)
def test_text_of_the_benchmark_and_the_original(tmp_path, name, options):
    np.savetxt(tmp_path / name, VALUES, **options)
    descriptors = read_descriptors(tmp_path / name)
    assert descriptors.dtype == np.float32
    np.testing.assert_allclose(descriptors, VALUES, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_archives(tmp_path, dtype):
    values = (10 * abs(VALUES)).astype(dtype)
    np.savez(tmp_path / "ref.npz", descriptors=values, others=np.zeros(3))
    descriptors = read_descriptors(str(tmp_path / "ref.npz"))
    assert descriptors.dtype == dtype
    np.testing.assert_array_equal(descriptors, values)


def _archive(**arrays):
    return lambda path: np.savez(path, **arrays)


def _bytes(content):
    return lambda path: path.write_bytes(content)


def _cut(path):
    np.savez(path, descriptors=VALUES)
    path.write_bytes(path.read_bytes()[:300])


def _spoilt(path):
    np.savez(path, descriptors=VALUES)
    content = bytearray(path.read_bytes())
    content[150:200] = bytes(50)
    path.write_bytes(content)


def _array(path):
    with path.open("wb") as file:
        np.save(file, VALUES)


def _member(content, change=lambda archive: archive):
    """An archive whose descriptors.npy has the given bytes."""

    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("descriptors.npy", content)
        path.write_bytes(change(bytearray(path.read_bytes())))

    return write


def _header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _encrypted(archive):
    archive[6] |= 1
    archive[archive.rfind(b"PK\x01\x02") + 8] |= 1
    return archive


def _lzma(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("descriptors.npy", bytes(100_000))
    content = bytearray(path.read_bytes())
    content[50:70] = b"\xff" * 20
    path.write_bytes(content)


DAMAGED = [
    (_array, "is damaged, or not an archive"),
    (_member(_header("(10**12, 128)")), "is damaged, or"),
    (_member(_header("(1000000000000, 128)")), "is damaged, or too large"),
    (_member(_header("(10000000000000000000000, 2)")), "is damaged, or not an archive"),
    (_member(_header("(2, 3")), "is damaged, or not an archive"),
    (_member(b"hello"), "is damaged: its 'descriptors' are no array"),
    (_member(b"hello", _encrypted), "is damaged, or not an archive"),
    (_lzma, "is damaged, or not an archive"),
]


@pytest.mark.parametrize(("write", "message"), DAMAGED)
def test_damaged_archives_are_one_line(tmp_path, write, message):
    write(tmp_path / "ref.npz")
    with pytest.raises(UserError, match=message) as error:
        read_descriptors(tmp_path / "ref.npz")
    assert "\n" not in str(error.value)
    assert not is_descriptors(tmp_path / "ref.npz")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("ref.npz", lambda path: None, "ref.npz does not exist"),
        ("ref.csv", lambda path: None, "ref.csv does not exist"),
        ("ref.csv", lambda path: path.mkdir(), "ref.csv cannot be read: Is a directory"),
        ("ref.npy", lambda path: None, r"in a file named \*\.npz, \*\.csv, \*\.txt"),
        ("ref.npz", _archive(features=VALUES), "has no array 'descriptors'"),
        ("ref.npz", _archive(descriptors=np.array([{}, {}])), "is damaged, or not an archive"),
        (
            "ref.npz",
            _archive(descriptors=VALUES[0]),
            r"expected numbers of shape \(N, D\), got float32 \(4,\)",
        ),
        ("ref.npz", _archive(descriptors=VALUES[:0]), r"got float32 \(0, 4\)"),
        ("ref.npz", _archive(descriptors=VALUES.astype(str)), "expected numbers"),
        ("ref.npz", _archive(descriptors=np.where(VALUES > 1, np.inf, VALUES)), "holds NaN or infinity"),
        ("ref.npz", _cut, "is damaged, or not an archive"),
        ("ref.npz", _spoilt, "is damaged, or not an archive"),
        ("ref.npz", _bytes(b"1,2,3\n"), "is damaged, or not an archive"),
        ("ref.npz", _bytes(b""), "is damaged, or not an archive"),
        ("ref.csv", _bytes(b""), r"got float32 \(0, 1\)"),
        ("ref.csv", _bytes(b"1,2\n3\n"), "a line of numbers per patch"),
        ("ref.csv", _bytes(b"1,2\n3,x\n"), "a line of numbers per patch"),
        ("ref.csv", _bytes(b"1,2\n3,\xff\n"), "a line of numbers per patch"),
        ("ref.csv", _bytes(b"1,2\n3,nan\n"), "holds NaN or infinity"),
        ("ref.csv", _bytes(b"1,2\n3,1e99\n"), "holds NaN or infinity"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(UserError, match=message) as error:
        read_descriptors(tmp_path / name)
    assert "\n" not in str(error.value)


def test_folders(tmp_path):
    for sequence in ("v_b", "i_a"):
        (tmp_path / sequence).mkdir()
        np.savez(tmp_path / sequence / "ref.npz", descriptors=VALUES)
        np.savetxt(tmp_path / sequence / "t5.csv", VALUES, delimiter=",")
    (tmp_path / "v_b" / "notes.txt").write_text("mine")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "ref.png").touch()
    (tmp_path / "ref.png").touch()
    folder = DescriptorFolder(tmp_path)
    assert list(folder) == ["i_a", "v_b"]
    assert len(folder) == 2
    assert "v_b" in folder
    assert "others" not in folder
    strips = folder["v_b"]
    assert list(strips) == ["ref", "t5"]
    np.testing.assert_allclose(strips["t5"], VALUES)
    assert list(DescriptorFolder(tmp_path / "v_b")) == ["v_b"]
    with pytest.raises(KeyError):
        folder["others"]


def test_folders_without_descriptors(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        DescriptorFolder(tmp_path / "missing")
    with pytest.raises(UserError, match="has no descriptors"):
        DescriptorFolder(tmp_path)
    for name in ("e1.csv", "e1.txt"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"has e1\.csv and e1\.txt: remove one"):
        DescriptorFolder(tmp_path)


@pytest.mark.parametrize("suffix", ["npz", "NPZ", "csv", "Csv", "TXT"])
def test_no_sequence_is_left_out(tmp_path, suffix):
    for sequence in ("a", "b"):
        write_descriptors(tmp_path / sequence / "ref.npz", VALUES)
    (tmp_path / "b" / "ref.npz").unlink()
    if suffix.lower() == "npz":
        np.savez((tmp_path / "b" / f"ref.{suffix}").open("wb"), descriptors=VALUES)
    else:
        np.savetxt(tmp_path / "b" / f"ref.{suffix}", VALUES, delimiter=",")
    assert list(DescriptorFolder(tmp_path)) == ["a", "b"]
    (tmp_path / "b" / f"ref.{suffix}").rename(tmp_path / "b" / f"first.{suffix}")
    with pytest.raises(UserError, match=r"b has files of descriptors, but none of a strip"):
        DescriptorFolder(tmp_path)


def test_strips_beside_sequences(tmp_path):
    for place in ("ref.npz", "a/ref.npz"):
        write_descriptors(tmp_path / place, VALUES)
    with pytest.raises(UserError, match="descriptors of its own and sequences with some, such as a"):
        DescriptorFolder(tmp_path)


def test_descriptors_of_two_networks(tmp_path):
    patches = np.arange(5 * 4, dtype=np.uint8).reshape(5, 2, 2)
    for place, weights in (("a/ref.npz", "1" * 64), ("a/e1.npz", ""), ("b/ref.npz", "2" * 64)):
        write_descriptors(tmp_path / place, VALUES, weights=weights, patches=patches)
    np.savetxt(tmp_path / "b" / "e1.csv", VALUES, delimiter=",")
    folder = DescriptorFolder(tmp_path)
    assert list(folder["a"]) == ["e1", "ref"]
    with pytest.raises(UserError, match=r"ref\.npz is of other weights, .* \(digest 222222222222\)"):
        folder["b"]
    assert list(DescriptorFolder(tmp_path)["b"]) == ["e1", "ref"]
    assert require_described(tmp_path / "a/ref.npz", patches=patches) == "1" * 64
    for other in (patches[::-1], patches[:4], patches.reshape(5, 1, 4)):
        with pytest.raises(UserError, match=r"ref\.npz is of other patches"):
            require_described(tmp_path / "a/ref.npz", patches=other)
