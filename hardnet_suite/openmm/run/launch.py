"""The ranks of a distributed run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import torch
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing
from torch.distributed import DistError

from hardnet_suite.errors import UserError
from hardnet_suite.failures import cannot_meet

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# what each launcher puts into the environment
_VARIABLES = {
    "pytorch": _TORCHRUN,
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST"),
    "mpi": ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "MASTER_ADDR"),
}
_STARTED_BY = {
    "pytorch": "torchrun: torchrun --nproc-per-node N {program} … --launcher pytorch",
    "slurm": "Slurm: srun python {program} …",
    "mpi": "Open MPI: mpirun -np N python {program} …, with MASTER_ADDR set",
}
_TEXT = ("MASTER_ADDR", "SLURM_NODELIST")  # the others are numbers


def require_launched(launcher: str, environment: Mapping[str, str] = os.environ) -> None:
    """Checks that the process was started as the run's launcher starts processes.

    Args:
        launcher: "none", "pytorch", "slurm" or "mpi".
        environment: variables of the process.

    Raises:
        UserError: it was not, or it is one of several that would each be a run of its own.
    """
    program = sys.argv[0] or "tools/train.py"
    if launcher == "none":
        if "TORCHELASTIC_RUN_ID" in environment and environment.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"torchrun started {environment['WORLD_SIZE']} processes, each of which would be a run of "
                "its own: add --launcher pytorch"
            )
        return
    if launcher not in _VARIABLES:
        raise UserError(f"the launcher is {launcher!r}, expected none, {', '.join(_VARIABLES)}")
    if launcher != "pytorch" and get_device() == "cpu":
        raise UserError(
            f"the launcher {launcher} needs GPUs; on the CPU, use torchrun and --launcher pytorch"
        )
    names = [name for name in _VARIABLES[launcher] if name != "LOCAL_RANK" or get_device() != "cpu"]
    missing = [name for name in names if not environment.get(name)]
    wrong = [
        f"{name}={environment[name]}"
        for name in names
        if name not in missing and name not in _TEXT and not environment[name].isdecimal()
    ]
    if missing or wrong:
        told = [f"{', '.join(missing)} not set"] if missing else []
        told += [f"{', '.join(wrong)} not a number"] if wrong else []
        command = _STARTED_BY[launcher].format(program=program)
        raise UserError(
            f"--launcher {launcher} expects a process started by {command} ({'; '.join(told)}); "
            "for one process, leave --launcher out"
        )


def start_ranks(launcher: str, env_cfg: Mapping) -> None:
    """Starts the ranks before the runner would: they must agree on a folder before it is built.

    Args:
        launcher: as ``require_launched`` has checked it.
        env_cfg: the config's entry of that name.

    Raises:
        UserError: the ranks cannot reach each other.
    """
    try:
        if get_device() == "cpu":
            torch.distributed.init_process_group("gloo")  # mmengine would look for a GPU for each rank
            return
        set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=True)
        init_dist(launcher, **env_cfg.get("dist_cfg", {}))
    except (DistError, ValueError) as error:
        raise cannot_meet(error) from error
