from __future__ import annotations

import zipfile

import numpy as np
import pytest

from hardnet_suite.data.descriptors import DescriptorFolder, is_descriptors, read_descriptors
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
