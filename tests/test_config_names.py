"""The data folder that a config states."""

from __future__ import annotations

import pytest

from hardnet_suite.config_names import written_data_root


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
