"""What a checkpoint may say to a run that resumes it: a wrong entry is one line."""

from __future__ import annotations

import pytest
import torch
from toy_runs import toy_config

from hardnet_suite.errors import UserError

WRONG = [
    (("meta", "epoch"), "x"),
    (("meta", "epoch"), -5),
    (("meta", "iter"), -1),
    (("meta", "iter"), 10**9),
    (("message_hub",), 5),
    (("message_hub", "runtime_info"), 5),
    (("message_hub", "runtime_info", "batches_per_epoch"), "x"),
    (("optimizer", "state"), "x"),
    (("optimizer", "param_groups"), 5),
    (("state_dict", "norm.running_mean"), torch.full((3,), 1 + 5j)),
    (("state_dict", "norm.running_mean"), torch.ones(4)),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda value: str(value)[:40].replace("\n", ""))
def test_a_wrong_entry_is_one_line(toy_train, path, value):
    toy_train(toy_config(epochs=1))
    file = toy_train.folder() / "epoch_1.pth"
    content = torch.load(file, weights_only=False)
    table = content
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    torch.save(content, file)
    with pytest.raises(UserError, match=r"cannot resume: .*epoch_1\.pth") as caught:
        toy_train(toy_config(epochs=2), resume=True)
    assert "\n" not in str(caught.value)


def test_buffers_of_ranks_are_for_several_ranks(toy_train):
    toy_train(toy_config(epochs=1))
    file = toy_train.folder() / "epoch_1.pth"
    content = torch.load(file, weights_only=False)
    mean = content["state_dict"]["norm.running_mean"].clone()
    content["rank_buffers"] = [{"0.norm.running_mean": torch.full((3,), 9.0)}]
    torch.save(content, file)
    cfg = toy_config(epochs=1)
    runner, _ = toy_train(cfg, resume=True)
    assert torch.equal(runner.model.norm.running_mean, mean)
