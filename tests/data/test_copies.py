"""Files of one content in several splits."""

from __future__ import annotations

import pytest

from hardnet_suite.data.files import copies_across


def write(folder, contents):
    folder.mkdir(exist_ok=True)
    paths = {name: folder / name for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(content)
    return paths


def test_pairs_of_two_splits(tmp_path):
    long = bytes(range(256)) * 40
    files = write(
        tmp_path,
        {
            "a": long,
            "b": long,
            "same size": long[:-1] + b"x",
            "same end": b"x" + long[1:],
            "same prefix": long + b"x",
            "empty": b"",
        },
    )
    first = [files["a"]]
    assert copies_across({"train": first, "val": [*files.values()]}) == [(files["a"], files["b"])]
    assert copies_across({"train": [files["a"], files["b"]], "val": [files["same size"]]}) == []
    assert copies_across({"train": [files["a"], files["b"]]}) == []
    assert copies_across({"train": first, "val": first}) == []
    assert copies_across({}) == []


def test_three_splits_and_what_cannot_be_read(tmp_path):
    files = write(tmp_path, dict.fromkeys("abc", b"content"))
    splits = {name: [path, tmp_path / "missing"] for name, path in files.items()}
    assert copies_across(splits) == [(files["a"], files["b"]), (files["a"], files["c"])]


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_links_are_copies(tmp_path, link):
    files = write(tmp_path, {"a": b"content"})
    getattr(tmp_path / "b", link)(files["a"])
    assert copies_across({"train": [files["a"]], "val": [tmp_path / "b"]}) == [(files["a"], tmp_path / "b")]
