"""Trains the toy model with a global batch of 4: ``train_elastic.py WORK_DIR [ITER]``, alone or on ranks.

Every process writes the images of each iteration into WORK_DIR/seen_ITER_RANK. After iteration ITER the run
is told to end. A run that is there is resumed.
"""

from __future__ import annotations

import json
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
from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.hooks import Stopped
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train

work_dir, last = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
rank = os.environ.get("RANK", "0")
global_batch_size = int(os.environ["GLOBAL_BATCH_SIZE"]) if "GLOBAL_BATCH_SIZE" in os.environ else None


@HOOKS.register_module()
class SeenHook(Hook):
    priority = "LOWEST"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        images = [round(8 * values[1].item()) for values in data_batch["inputs"]]
        (work_dir / f"seen_{runner.iter:02}_{rank}").write_text(json.dumps(images))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if last and rank == "0" and runner.iter + 1 == last:
            os.kill(os.getpid(), signal.SIGTERM)


cfg = toy_config(epochs=3)
cfg.train_dataloader.dataset.length = 16  # 4 iterations of 4 per epoch
cfg.custom_hooks = [{"type": "SeenHook"}]
try:
    with stop_on_termination() as stop:
        launcher = "pytorch" if "RANK" in os.environ else "none"
        cfg = prepare(cfg, work_dir=work_dir, launcher=launcher, global_batch_size=global_batch_size)
        train(cfg, resume=True, stop=stop)
except UserError as error:
    print(f"error: {error}", flush=True)
    sys.exit(1)
except Stopped:
    sys.exit(130)
