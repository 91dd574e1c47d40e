"""Trains the toy model on ranks of which the second alone meets a bad loss: ``diverge.py WORK_DIR``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from toy_runs import toy_config

from hardnet_suite.errors import UserError
from hardnet_suite.openmm.run.runner import prepare
from hardnet_suite.openmm.run.train import train

rank = os.environ["RANK"]
cfg = toy_config(epochs=4)
cfg.model.update(spoil="loss", spoil_at=2 if rank == "1" else -1)
try:
    train(prepare(cfg, work_dir=sys.argv[1], launcher="pytorch"))
except UserError as error:
    Path(sys.argv[1], f"rank{rank}.txt").write_text(str(error))  # on one pipe, the ranks' lines may mix
    # the launcher stops all ranks at the first that fails: both must have come here by themselves
    sys.exit(0)
