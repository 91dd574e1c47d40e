"""Images of tar files: those of the folder that was packed, in the order of the files, or one clear line."""

from __future__ import annotations

import io
import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from hardnet_suite.data.images import open_rgb
from hardnet_suite.data.sources import count_of, expanded, images_of, is_live, is_single, require_some
from hardnet_suite.data.tar_files import is_tar, tar_members, tar_paths
from hardnet_suite.errors import UserError


def encoded(value: int, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(stream, format, **options)
    return stream.getvalue()


def pack(path, files: dict[str, bytes], **options):
    with tarfile.open(path, "w", **options) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


FILES = {
    "b.png": encoded(1),
    "b.cls": b"0",
    "deep/er/ä b.JPG": encoded(2, "JPEG"),
    "a.webp": encoded(3, "WEBP", lossless=True),
    "x" * 120 + "/long.png": encoded(4),
    "notes.txt": b"no image",
    "turned.png": encoded(5),
}


@pytest.fixture
def shards(tmp_path):
    for number, name in enumerate(FILES):
        pack(tmp_path / f"s-{number:02}.tar", {name: FILES[name]} | {f"{number}.png": encoded(100 + number)})
    return tmp_path


def names(source) -> list[str]:
    return [image.name for image in images_of(source)]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_those_that_were_packed(tmp_path, format):
    files = FILES
    if format == tarfile.USTAR_FORMAT:
        files = {name: content for name, content in FILES.items() if name.isascii()}
    path = pack(tmp_path / "a.tar", files, format=format)
    images = list(images_of(path))
    assert [image.name for image in images] == [
        f"{path}/{name}" for name in files if not name.endswith((".cls", ".txt"))
    ]
    for image in images:
        content = files[image.name.removeprefix(f"{path}/")]
        assert np.array_equal(np.asarray(image.open()), np.asarray(open_rgb(content, "in memory")))
        assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(image)).open()), np.asarray(image.open()))
    assert images[0].stem == "b"


def test_patterns_keep_their_order(shards):
    expected = [
        f"{shards}/s-{number:02}.tar/{member}"
        for number, name in enumerate(FILES)
        for member in (name, f"{number}.png")
        if not member.endswith((".cls", ".txt"))
    ]
    assert names(f"{shards}/s-{{00..06}}.tar") == names(f"{shards}/s-*.tar") == expected
    assert names(f"{shards}/s-{{06,00}}.tar") == expected[-2:] + expected[:2]
    assert names([f"{shards}/s-06.tar", f"{shards}/s-00.tar"]) == expected[-2:] + expected[:2]
    assert expanded([f"{shards}/s-{{03..04}}.tar"]) == [f"{shards}/s-03.tar", f"{shards}/s-04.tar"]


def test_what_is_known_without_reading(shards):
    for source in (f"{shards}/s-00.tar", f"{shards}/s-*.tar", f"{shards}/s-{{00..06}}.tar"):
        assert count_of(source) is None
        assert not is_single(source)
        assert not is_live(source)
        require_some([source])
    assert count_of([f"{shards}/s-00.tar", np.zeros((2, 2, 3), np.uint8)]) is None


@pytest.mark.parametrize("prefix", ["", "./"])
def test_hidden_files_are_left_out(tmp_path, prefix):
    """Tar on macOS adds ``._NAME``, which is no image."""
    files = {f"{prefix}{name}": encoded(1) for name in ("._a.png", "a.png", ".trash/b.png", "c/.d.png")}
    assert names(pack(tmp_path / "a.tar", files)) == [f"{tmp_path}/a.tar/a.png"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_refused(tmp_path, kind):
    """Left out, they would be missing silently."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("link.png")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match=r"link\.png is a link: pack the files themselves"):
        list(images_of(tmp_path / "a.tar"))


def test_folders_are_no_images(tmp_path):
    (tmp_path / "d.png").mkdir()
    (tmp_path / "d.png/own.png").write_bytes(encoded(7))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "d.png", "d.png")
    assert names(tmp_path / "a.tar") == [f"{tmp_path}/a.tar/d.png/own.png"]


def test_an_image_that_cannot_be_read_is_one_of_them(tmp_path):
    images = list(images_of(pack(tmp_path / "a.tar", {"a.png": b"no image", "b.png": encoded(1)})))
    assert images[1].open().size == (8, 6)
    with pytest.raises(UserError, match=r"a\.tar/a\.png"):
        images[0].open()


@pytest.mark.parametrize("cut", [100, 512, 600, 1024 + 70, -10240])
def test_a_file_that_is_cut_short_is_an_error_in_its_place(tmp_path, cut):
    path = pack(tmp_path / "a.tar", {"a.png": encoded(1), "b.png": encoded(2)})
    content = path.read_bytes()
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1]
    length = cut if cut > 0 else end.offset_data + 512 * -(-end.size // 512)
    path.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"a\.tar"):
        list(images_of(path))
    listed = list(images_of([path, pack(tmp_path / "b.tar", {"c.png": encoded(3)})]))
    assert listed[-1].open().size == (8, 6)
    with pytest.raises(UserError, match=r"a\.tar"):
        listed[-2].open()


def test_a_file_that_becomes_shorter_afterwards(tmp_path):
    path = pack(tmp_path / "a.tar", {"a.png": encoded(1)})
    (image,) = images_of(path)
    path.write_bytes(path.read_bytes()[:520])
    with pytest.raises(UserError, match="cut short since its images were listed"):
        image.open()
    path.unlink()
    with pytest.raises(UserError, match="No such file"):
        image.open()


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_compressed_files(tmp_path, suffix):
    path = tmp_path / f"a.tar.{suffix}"
    with tarfile.open(path, f"w:{suffix}") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(encoded(1))
        tar.addfile(member, io.BytesIO(encoded(1)))
    assert is_tar(str(path))
    with pytest.raises(UserError, match="is compressed, and images of it could not be read one by one"):
        list(images_of(path))


def test_two_files_of_one_name(tmp_path):
    path = tmp_path / "a.tar"
    pack(path, {"a.png": encoded(1)})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("a.png")
        member.size = len(encoded(2))
        tar.addfile(member, io.BytesIO(encoded(2)))
    with pytest.raises(UserError, match=r"holds two files a\.png"):
        list(images_of(path))


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="no image in it"):
        list(images_of(pack(tmp_path / "a.tar", {"a.txt": b"text"})))
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.tar"):
        list(images_of(tmp_path / "b.tar"))
    with pytest.raises(UserError, match=r"no shard .*c-1\.tar \(and 1 more\)"):
        list(images_of(f"{tmp_path}/c-{{1,2}}.tar"))
    with pytest.raises(UserError, match="no such shards"):
        require_some([f"{tmp_path}/c-*.tar"])
    with pytest.raises(UserError, match=r"no images in .* but its tar files: name them as .*/\*\.tar"):
        list(images_of(tmp_path))
    listed = list(images_of([f"{tmp_path}/c-{{1,2}}.tar", np.zeros((2, 3, 3), np.uint8)]))
    assert len(listed) == 2
    assert expanded([f"{tmp_path}/c-{{1,2}}.tar", "a.png"]) == [f"{tmp_path}/c-{{1,2}}.tar", "a.png"]
    with pytest.raises(UserError, match="is named twice"):
        tar_paths(f"{tmp_path}/{{a,a}}.tar")


def test_a_sparse_member_is_refused(tmp_path):
    """Its bytes in the tar file are not those of the file."""
    sparse = tmp_path / "s.png"
    with sparse.open("wb") as file:
        file.seek(4 << 20)
        file.write(b"end")
    path = tmp_path / "a.tar"
    if os.system(f"cd '{tmp_path}' && tar --sparse -cf a.tar s.png 2>/dev/null") != 0:
        pytest.skip("no tar with --sparse")
    if path.stat().st_size > 1 << 20:
        pytest.skip("this file system stores no sparse files")
    with pytest.raises(UserError, match="stored as a sparse file"):
        list(tar_members(str(path)))
