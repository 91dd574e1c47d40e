"""Which of a run's checkpoints is the newest, and what is said where it cannot be read."""

from __future__ import annotations

import os
import random
import shutil

import pytest
import torch

from hardnet_suite.errors import UserError
from hardnet_suite.run_folders import is_run, saved_checkpoints
from hardnet_suite.weights.runs import newest_checkpoint, run_checkpoint


def save(folder, name, time, iterations, best: str | None = None, **meta) -> None:
    folder.mkdir(exist_ok=True)
    meta = {"time": time, "iter": iterations} | meta
    info = {} if best is None else {"best_ckpt": f"/elsewhere/{best}"}
    content = {"state_dict": {"w": torch.zeros(4)}, "meta": meta, "message_hub": {"runtime_info": info}}
    torch.save(content, folder / name)


def times(folder, names) -> None:
    """Gives the files those times of modification, in this order."""
    for age, name in enumerate(names):
        os.utime(folder / name, (1000 + age, 1000 + age))


def test_the_numbered_ones_in_the_order_of_their_numbers(tmp_path):
    names = ["iter_9.pth", "epoch_10.pth", "epoch_9.pth", "best_x_epoch_1.pth", ".epoch_2.pth.a.tmp", "a.pth"]
    for name in names:
        (tmp_path / name).touch()
    times(tmp_path, reversed(names))
    assert [path.name for path in saved_checkpoints(tmp_path)] == [
        "epoch_9.pth",
        "epoch_10.pth",
        "iter_9.pth",
    ]
    assert [path.name for path in saved_checkpoints(tmp_path, "iter")] == ["iter_9.pth"]
    assert saved_checkpoints(tmp_path / "nothing") == []


RUN = [
    ("epoch_8.pth", "20261126_110000", 80),
    ("epoch_9.pth", "20261126_120000", 90),
    ("epoch_10.pth", "20261126_130000", 100),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("more", "newest"),
    [
        ([], "epoch_10.pth"),
        ([("iter_105.pth", "20261126_131500", 105)], "iter_105.pth"),
        ([("iter_95.pth", "20261126_123000", 95)], "epoch_10.pth"),
        ([("epoch_2.pth", "20261127_090000", 20)], "epoch_2.pth"),  # of a later run in the same folder
        ([("epoch_11.pth", "20261126_130000", 110)], "epoch_11.pth"),  # within one second
    ],
)
def test_the_newest_is_what_the_files_say(tmp_path, seed, more, newest):
    """Whatever the order in which they were copied."""
    rows = RUN + more
    for row in rows:
        save(tmp_path / "run", *row)
    names = [name for name, _, _ in rows]
    random.Random(seed).shuffle(names)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    times(tmp_path / "copy", names)
    assert newest_checkpoint(tmp_path / "copy").path.name == newest


def test_a_folder_without_any(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    assert not is_run(tmp_path)
    with pytest.raises(UserError, match=r"no checkpoint best_\*\.pth, epoch_N\.pth or iter_N\.pth"):
        run_checkpoint(tmp_path)


def test_a_run_stands_for_its_best_checkpoint(tmp_path):
    for row in RUN:
        save(tmp_path, *row)
    file, which = run_checkpoint(tmp_path)
    assert (file.path.name, which) == ("epoch_10.pth", "the newest of the run (it has no best one)")
    save(tmp_path, "best_coco_bbox_mAP_epoch_10.pth", "20261125_120000", 100)  # of an earlier run
    file, which = run_checkpoint(tmp_path)
    assert (file.path.name, which) == ("epoch_10.pth", "the newest of the run (it has no best one)")
    save(tmp_path, "best_coco_bbox_mAP_epoch_8.pth", "20261126_120000", 80)
    save(tmp_path, *RUN[-1], best="best_coco_bbox_mAP_epoch_8.pth")
    times(tmp_path, ["best_coco_bbox_mAP_epoch_8.pth", "best_coco_bbox_mAP_epoch_10.pth"])
    file, which = run_checkpoint(tmp_path)
    assert (file.path.name, which) == ("best_coco_bbox_mAP_epoch_8.pth", "the best of the run")
    assert newest_checkpoint(tmp_path).path.name == "epoch_10.pth"
    break_it(tmp_path / "best_coco_bbox_mAP_epoch_8.pth", "cut")
    with pytest.raises(UserError, match=r"best_coco_bbox_mAP_epoch_8\.pth: corrupt.*epoch_10\.pth"):
        run_checkpoint(tmp_path)


def test_the_option_for_the_last_whole_one_is_of_a_shell(tmp_path):
    folder = tmp_path / "my run"
    folder.mkdir()
    for row in RUN:
        save(folder, *row)
    break_it(folder / "epoch_10.pth", "cut")
    with pytest.raises(UserError, match=rf"\(train --resume '{folder}/epoch_9\.pth'\)"):
        newest_checkpoint(folder)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_newest_one_names_the_last_whole_one(tmp_path, damage):
    for row in RUN:
        save(tmp_path, *row)
    break_it(tmp_path / "epoch_10.pth", damage)
    whole = tmp_path / "epoch_9.pth"
    with pytest.raises(UserError, match=rf"epoch_10\.pth: .*{whole} \(train --resume {whole}\)") as raised:
        newest_checkpoint(tmp_path)
    assert "could run code" not in str(raised.value)
    break_it(whole, damage)
    with pytest.raises(UserError, match=r"epoch_8\.pth \(train"):
        newest_checkpoint(tmp_path)


def test_a_damaged_older_one_is_no_matter(tmp_path):
    for row in RUN:
        save(tmp_path, *row)
    break_it(tmp_path / "epoch_9.pth", "cut")
    assert newest_checkpoint(tmp_path).path.name == "epoch_10.pth"


def test_a_damaged_one_within_an_epoch(tmp_path):
    for row in [*RUN, ("iter_105.pth", "20261126_131500", 105)]:
        save(tmp_path, *row)
    break_it(tmp_path / "iter_105.pth", "flipped")
    with pytest.raises(UserError, match=r"iter_105\.pth: corrupt or cut short.*epoch_10\.pth \(train"):
        newest_checkpoint(tmp_path)


def break_it(path, damage) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[content.index(b"state_dict") + 2] ^= 1
    else:
        content = b""
    path.write_bytes(content)


@pytest.mark.parametrize("at", range(0, 1600, 37))
def test_a_flipped_bit_is_damage_and_never_code(tmp_path, at):
    """Wherever it lies, in a checkpoint with a run's log: a name that is no longer one is not an import."""
    history = pytest.importorskip("mmengine.logging").HistoryBuffer([1.0, 2.0], [1, 1])
    path = tmp_path / "epoch_2.pth"
    hub = {"log_scalars": {"loss": history}, "runtime_info": {}, "resumed_keys": {}}
    torch.save({"state_dict": {"w": torch.zeros(4)}, "meta": {"iter": 2}, "message_hub": hub}, path)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 4
    path.write_bytes(content)
    try:
        run_checkpoint(tmp_path)
    except UserError as error:
        assert "corrupt" in str(error)  # noqa: PT017
