"""Which config a word stands for."""

from __future__ import annotations

import pytest

from hardnet_suite.config_names import config_of_run, written_data_root


def run(folder, *names):
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["mine-voc.py", "other.py", "last_checkpoint"], "mine-voc.py"),
        (["config.py"], "config.py"),
        (["a.py", "b.py"], None),
        ([], None),
    ],
)
@pytest.mark.parametrize("place", ["work_dirs/mine-voc", "runs/mine-voc", "mine-voc"])
def test_the_folder_and_the_name_of_a_run(tmp_path, monkeypatch, place, files, found):
    monkeypatch.chdir(tmp_path)
    run(tmp_path / place, *files)
    words = {place, f"./{place}/", str(tmp_path / place)}
    for word in words | ({"mine-voc"} if place.startswith("work_dirs") else set()):
        path = config_of_run(word)
        assert path == word if found is None else (tmp_path / path).samefile(tmp_path / place / found)


@pytest.mark.parametrize(
    "name",
    ["ssd320_hardnet39ds_bccd", "SSD320-HarDNet39ds-BCCD", "mine.py", "nothing", "", "x" * 5000, "a\0b"],
)
def test_other_words_stay(tmp_path, monkeypatch, name):
    """A config of the suite is not that of its run, which may be older."""
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "work_dirs/ssd320_hardnet39ds_bccd", "ssd320_hardnet39ds_bccd.py")
    (tmp_path / "mine.py").touch()
    (tmp_path / "one.py").touch()
    assert config_of_run(name) == name


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ('_base_ = "ssd512_hardnet68.py"\n', "data/coco/"),
        ('_base_ = "ssd512_hardnet68.py"\ndata_root = "here/"\n', "here/"),
        ('data_root = "here/"\n', "here/"),
        ('_base_ = "ssd512_hardnet68.py"\ntrain_dataloader = dict(dataset=dict(data_root="there/"))\n', None),
        ('data_root = "here/"\ntest_dataloader = dict(dataset=dict(data_root="there/"))\n', None),
        ("data_root = 3\n", None),
        ("broken = (\n", None),
        ("", None),
    ],
)
def test_the_folder_that_a_config_states(tmp_path, text, root):
    (tmp_path / "mine.py").write_text(text)
    assert written_data_root(tmp_path / "mine.py") == root


def test_a_file_whose_base_sets_data_loaders(tmp_path):
    (tmp_path / "base.py").write_text('_base_ = "ssd512_hardnet68.py"\nval_dataloader = dict(batch_size=1)\n')
    (tmp_path / "mine.py").write_text('_base_ = "base.py"\n')
    assert written_data_root(tmp_path / "mine.py") is None
