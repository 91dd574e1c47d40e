"""A classifier's data set in a config: what it names is there before the first iteration."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from PIL import Image

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.data.parts import LOADERS, parts


def _remove(path):
    path.unlink()


def _break_link(path):
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


def _make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("source", ["csv", "folder"])
@pytest.mark.parametrize("spoil", [_remove, _break_link, _make_folder])
def test_missing_images_are_found_before_the_first_iteration(tmp_path, loader, source, spoil):
    files = [tmp_path / f"set/{name}/{index}.png" for name in "ab" for index in range(3)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    rows = [f"{file.parent.name}/{file.name},{file.parent.name}" for file in files]
    (tmp_path / "list.csv").write_text("\n".join(["file,label", *rows]))
    options = {"csv": "list.csv", "folder": "set"} if source == "csv" else {"folder": "set"}
    dataset = {"type": "ClassificationDataset", "data_root": str(tmp_path), **options}
    (part,) = parts(Config({loader: {"dataset": dataset}}), [loader])
    part.require()
    for file in files[1:3]:
        spoil(file)
    (part,) = parts(Config({loader: {"dataset": dataset}}), [loader])
    if source == "folder" and spoil is not _break_link:
        part.require()  # what is not in the folder is not in the set
        return
    with pytest.raises(UserError, match=rf"{loader}: no image .*a/1\.png \(and 1 more of 6\)"):
        part.require()
