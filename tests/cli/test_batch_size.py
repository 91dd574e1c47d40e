"""The batch size of a rank, and that of all ranks."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("is_in_config", [False, True])
def test_a_share_beside_the_whole_is_refused(tmp_path, error_of, is_in_config):
    path = tmp_path / "c.py"
    base = Path(__file__).parents[2] / "configs/ssd224_hardnet29_symbols.py"
    path.write_text(f"_base_ = {str(base)!r}\n" + ("global_batch_size = 8\n" if is_in_config else ""))
    given = [] if is_in_config else ["--global-batch-size", "8"]
    message = error_of(
        "train", path, *given, "--work-dir", tmp_path / "w", "--cfg-options", "train_dataloader.batch_size=4"
    )
    assert "--global-batch-size" in message
