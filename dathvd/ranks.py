"""Rank and size as the launcher's environment tells them: no MPI, no Horovod."""

from __future__ import annotations

import os
import time

HOT_EVERY = "DATHVD_HOT_EVERY"
"""The variable by which a launcher asks ranks to keep their state in memory every so
many steps."""
# Horovod's Gloo launcher, Open MPI, MPICH and Slurm's PMI, Slurm itself
_RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
_LOCAL_RANK = (
    "HOROVOD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
)
_LOCAL_SIZE = (
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_NTASKS_PER_NODE",
)


def _first(names: tuple[str, ...], default: int) -> int:
    for name in names:
        value = os.environ.get(name, "")
        if value.isdigit():
            return int(value)
    return default


def under_launcher() -> bool:
    """Whether horovodrun, mpirun or srun started this process."""
    return any(os.environ.get(name, "").isdigit() for name in _RANK)


def launched_rank() -> int:
    """This process's rank, 0 where no launcher says otherwise."""
    return _first(_RANK, 0)


def launched_size() -> int:
    """The number of processes that the launcher started, 1 without one."""
    return _first(_SIZE, 1)


def launched_local_rank() -> int:
    """This process's rank on its host."""
    return _first(_LOCAL_RANK, 0)


def launched_local_size() -> int:
    """The number of processes on this host."""
    return _first(_LOCAL_SIZE, 1)


def wait_for_root_to_report() -> None:
    """Hold back on ranks other than 0, before collectives exist.

    A mistake that every rank sees is then printed once: rank 0 prints and exits, and
    the launcher ends the others while they wait. A mistake that only this rank sees is
    still printed, after the wait. It is three times as long as this process took to
    come here, 3 to 10 s: on a busy machine rank 0 and the launcher are slow, too.
    """
    if launched_rank() > 0:
        import psutil

        age = time.time() - psutil.Process().create_time()
        time.sleep(min(max(3.0, 3 * age), 10.0))
