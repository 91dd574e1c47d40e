"""Trains the toy model on ranks: ``train_on_ranks.py WORK_DIR EVERY_ITERS BUFFERS [SIGNAL ITER]``.

Rank 1 sends itself the signal after that iteration. Every rank writes its buffers into WORK_DIR. A run that
is there is resumed. BUFFERS: "copy" or "average", what EMAHook does with them; with "average", a step is of
three iterations.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

sys.path.insert(0, str(Path(__file__).parents[2]))
from toy_runs import toy_config

from hardnet_suite.cli.train import stop_on_termination
from hardnet_suite.openmm.run.hooks import Stopped
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train

work_dir, every_iters, buffers, *ending = sys.argv[1:]
rank = int(os.environ["RANK"])


@HOOKS.register_module()
class SignalHook(Hook):
    priority = "LOWEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        torch.distributed.barrier()  # the checkpoint is complete
        is_restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if rank == 1 and ending and not is_restarted and runner.iter + 1 == int(ending[1]):
            os.kill(os.getpid(), signal.Signals[ending[0]])
        if batch_idx + 1 < len(runner.train_dataloader):  # before the epoch's end averages them
            own = {key: value.clone() for key, value in runner.model.module.named_buffers()}
            torch.save(own, Path(work_dir, f"rank{rank}_iter{runner.iter + 1}.pth"))


cfg = toy_config(epochs=3)
cfg.default_hooks.checkpoint.every_iters = int(every_iters)
cfg.train_dataloader.dataset.length = 16  # 4 iterations per epoch again
cfg.optim_wrapper.accumulative_counts = 3 if buffers == "average" else 1
cfg.custom_hooks = [
    {"type": "EMAHook", "momentum": 0.1, "update_buffers": buffers == "average"},
    {"type": "SignalHook"},
]
try:
    with stop_on_termination() as stop:
        train(prepare(cfg, work_dir=work_dir, launcher="pytorch"), resume=True, stop=stop)
except Stopped as stopped:
    print(f"rank {rank}: {stopped}", flush=True)
    sys.exit(130)
