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
from hardnet_suite.data.sources import (
    LeftOutWarning,
    count_of,
    expanded,
    images_of,
    is_live,
    is_single,
    require_some,
)
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


def whole_shard(path, count: int = 60) -> bytes:
    return pack(path, {f"{number}.png": encoded(number) for number in range(count)}).read_bytes()


def test_what_follows_the_end_is_not_left_out(tmp_path):
    """As ``cat a.tar b.tar`` makes it; tarfile itself ends at the first zeros."""
    path = tmp_path / "a.tar"
    content = whole_shard(path)
    path.write_bytes(content + content)
    with pytest.raises(UserError, match=r"that were joined are named one by one|zeros from byte"):
        list(images_of(path))
    path.write_bytes(content[:-2048] + b"x" * 100)
    with pytest.raises(UserError, match=r"more follows its end|is no tar file|zeros"):
        list(images_of(path))


@pytest.mark.parametrize(("start", "end"), [(20, None), (20, 22), (20, 50), (0, None)])
def test_blocks_that_were_never_written(tmp_path, start, end):
    """Of a file that was allocated before its content came."""
    path = tmp_path / "a.tar"
    content = bytearray(whole_shard(path))
    stop = len(content) if end is None else 1024 * end
    content[1024 * start : stop] = bytes(stop - 1024 * start)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tar"):
        list(images_of(path))


@pytest.mark.parametrize("blocks", [0, 1, 18, 20])
def test_zeros_at_the_end_are_those_of_a_record(tmp_path, blocks):
    path = tmp_path / "a.tar"
    content = whole_shard(path).rstrip(b"\0")
    content += bytes(-len(content) % 512 + 1024 + 512 * blocks)
    path.write_bytes(content)
    assert len(names(path)) == 60
    path.write_bytes(content + bytes(512 * (21 - blocks)))
    with pytest.raises(UserError, match="it was not written to its end, or with a large blocking factor"):
        list(images_of(path))


@pytest.mark.parametrize("prefix", ["../in", ".", "./.", "/abs", "a/./b", "a//b"])
def test_names_with_dots_are_not_hidden(tmp_path, prefix):
    path = pack(
        tmp_path / "a.tar", {f"{prefix}/1.png": encoded(1), "2.png": encoded(2), ".3.png": encoded(3)}
    )
    found = list(images_of(path))
    assert len(found) == 2
    assert found[0].name.endswith("1.png")
    assert found[0].open().getpixel((0, 0)) == (1, 1, 1)


def test_headers_without_end(tmp_path):
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("x")
    member.type, member.size = tarfile.XHDTYPE, 0
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) * 3000 + bytes(1024))
    with pytest.raises(UserError, match="is no tar file, or a broken one"):
        list(images_of(path))


def test_an_image_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = pack(tmp_path / "a.tar", {"a.png": encoded(1) + bytes(5 << 20)})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (image,) = images_of(path)
    with pytest.raises(UserError, match=r"a\.tar/a\.png: \d+ bytes, the limit is"):
        image.open()


def test_patterns_find_all_folders_and_names_that_look_like_patterns(tmp_path):
    for name in ("0.tar", "x/1.tar", "x/y/2.tar", "part[1].tar", "part1.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pack(tmp_path / name, {"a.png": encoded(1)})
    assert tar_paths(f"{tmp_path}/x/**/*.tar") == [f"{tmp_path}/x/1.tar", f"{tmp_path}/x/y/2.tar"]
    assert tar_paths(f"{tmp_path}/part[1].tar") == [f"{tmp_path}/part[1].tar"]
    (tmp_path / "part[1].tar").unlink()
    assert tar_paths(f"{tmp_path}/part[1].tar") == [f"{tmp_path}/part1.tar"]


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


@pytest.mark.parametrize("place", ["a.tar", "deep/er/a.TAR"])
def test_tar_files_beside_images_are_told(tmp_path, place):
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "b.png").write_bytes(encoded(1))
    pack(tmp_path / place, {"a.png": encoded(1)})
    with pytest.warns(
        LeftOutWarning, match=rf"1 tar file in {tmp_path} left out: name .* as {tmp_path}/{place}"
    ):
        assert names(tmp_path) == [f"{tmp_path}/b.png"]


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
    with pytest.raises(
        UserError, match=rf"its tar files: name them, as {tmp_path}/a\.tar, or {tmp_path}/\*\*/"
    ):
        list(images_of(tmp_path))
    (tmp_path / "deep").mkdir()
    pack(tmp_path / "deep/a.tar", {"a.png": encoded(1)})
    with pytest.raises(UserError, match=rf"its tar files: name them, as {tmp_path}/deep/a\.tar$"):
        list(images_of(tmp_path / "deep"))
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
