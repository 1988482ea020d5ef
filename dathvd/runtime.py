"""One worker among others: start, agree on errors, end together.

The only module that uses mpi4py. Under MPI it is what ends every rank at once; under
Gloo the launcher does that as soon as one process has gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from dathvd.errors import UserError
from dathvd.files import explain_os_errors
from dathvd.ranks import launched_local_size, launched_size

T = TypeVar("T")


class AgreedError(UserError):
    """A user's error that every rank raises together; rank 0 alone prints it."""

    agreed = True


@dataclass(frozen=True)
class Runtime:
    """This worker's place, device and share of the host."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    controller: str
    """What coordinates the workers: mpi or gloo."""
    num_threads: int

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, which alone writes and prints."""
        return self.rank == 0

    def describe(self) -> str:
        """One line for people: workers, controller, device, threads."""
        workers = "1 worker" if self.size == 1 else f"{self.size} workers"
        return (
            f"{workers} over {self.controller.upper()}, "
            f"{self.local_size} on this host, device {self.device}, "
            f"{self.num_threads} CPU threads each"
        )


def start(device: str = "auto") -> Runtime:
    """Start Horovod and give this worker its device and CPU threads.

    Args:
        device: ``auto`` (the GPU of this local rank where there is one), ``cpu`` or
            ``cuda``.

    Raises:
        UserError: Horovod is missing, or there is no GPU for this rank.
    """
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise UserError(
            f"Horovod with PyTorch cannot be imported ({error}); "
            "launchers/setup.sh builds and installs it"
        ) from None
    if launched_local_size() > (os.cpu_count() or 1):
        # Open MPI waits by spinning, which takes the cores from ranks that compute
        os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    hvd.init()
    chosen = AgreedDevice(device, hvd.local_rank(), hvd.local_size()).resolve()
    runtime = Runtime(
        rank=hvd.rank(),
        size=hvd.size(),
        local_rank=hvd.local_rank(),
        local_size=hvd.local_size(),
        device=chosen,
        controller="mpi" if hvd.mpi_enabled() else "gloo",
        num_threads=_share_threads(
            lambda mine: hvd.allgather_object(mine, name="threads")
        ),
    )
    torch.set_num_threads(runtime.num_threads)
    if runtime.size != launched_size() and launched_size() > 1:
        raise UserError(
            f"the launcher started {launched_size()} processes but Horovod sees "
            f"{runtime.size}; was Horovod built with this MPI?"
        )
    return runtime


@dataclass(frozen=True)
class AgreedDevice:
    """The device that a configuration's word stands for on one rank."""

    word: str
    local_rank: int
    local_size: int

    def resolve(self) -> torch.device:
        """The torch device.

        Raises:
            UserError: cuda was asked for, and this host has no GPU for the rank.
        """
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.word == "cpu" or (self.word == "auto" and gpus == 0):
            return torch.device("cpu")
        if self.local_rank >= gpus:
            raise UserError(
                f"train.device: {self.local_size} workers on host "
                f"{socket.gethostname()} but {gpus} GPUs; start fewer or use cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)


def _share_threads(gather: Callable[[Any], list[Any]]) -> int:
    """Cores that this host's ranks may use, divided among them (at least 1)."""
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    mine = (socket.gethostname(), sorted(os.sched_getaffinity(0)))
    local = [cores for host, cores in gather(mine) if host == mine[0]]
    return max(1, len({core for cores in local for core in cores}) // len(local))


def together(runtime: Runtime, action: Callable[[], T]) -> T:
    """Run ``action`` on every rank; if it fails on any, fail on all.

    Raises:
        AgreedError: the first failing rank's message, on every rank.
    """
    import horovod.torch as hvd

    result: T | None = None
    message = None
    try:
        result = action()
    except UserError as error:
        message = str(error)
    messages = [message]
    if runtime.size > 1:
        # named: by default the name is the object's type, which may differ by rank
        messages = hvd.allgather_object(message, name="together")
    failed = [rank for rank, text in enumerate(messages) if text is not None]
    if failed:
        everywhere = len(failed) == runtime.size
        where = "" if everywhere else f"[rank {failed[0]}] "
        raise AgreedError(f"{where}{messages[failed[0]]}")
    return result  # type: ignore[return-value]


def from_root(runtime: Runtime, value: T) -> T:
    """Rank 0's value on every rank."""
    if runtime.size == 1:
        return value
    import horovod.torch as hvd

    sent: T = hvd.broadcast_object(value, root_rank=0, name="from_root")
    return sent


def read_on_root(runtime: Runtime, find: Callable[[], Path]) -> tuple[str, bytes]:
    """Name and bytes of a file that rank 0 alone needs to see, on every rank.

    Args:
        runtime: this worker's place.
        find: gives the path; called on rank 0.

    Raises:
        AgreedError: it is not found or cannot be read; raised on every rank.
    """

    def read() -> tuple[str, bytes]:
        if not runtime.is_root:
            return "", b""
        file = find()
        with explain_os_errors("read", file):
            return str(file), file.read_bytes()

    return from_root(runtime, together(runtime, read))


def sum_over_workers(runtime: Runtime, values: Tensor, name: str) -> Tensor:
    """The sum over all workers, on the CPU; ``values`` are left alone.

    Args:
        runtime: this worker's place.
        values: a tensor of the same shape and type on every rank.
        name: the collective's, equal on all ranks and unique while it is under way.
    """
    values = values.detach().cpu()
    if runtime.size == 1:
        return values.clone()
    import horovod.torch as hvd

    total: Tensor = hvd.allreduce(values, op=hvd.Sum, name=name)
    return total


@contextlib.contextmanager
def guard(runtime: Runtime) -> Iterator[None]:
    """End every rank when this one fails, with this rank's message."""
    try:
        yield
    except AgreedError:
        raise
    except UserError as error:
        _say(runtime, f"dathvd: error: {' '.join(str(error).split())}")
        abort(runtime, error.exit_code)
    except KeyboardInterrupt:
        abort(runtime, 130)
    except Exception as error:
        if type(error).__name__ == "HorovodInternalError":
            # another rank has ended: let the launcher show that rank's message first
            threading.Event().wait(5)
            _say(runtime, "dathvd: error: lost the other workers")
        else:
            traceback.print_exc()
            _say(runtime, f"dathvd: error: {type(error).__name__}: {error}")
        abort(runtime, 1)


def _say(runtime: Runtime, line: str) -> None:
    prefix = f"[rank {runtime.rank}] " if runtime.size > 1 else ""
    print(prefix + line, file=sys.stderr, flush=True)


def abort(runtime: Runtime, code: int) -> NoReturn:
    """End the whole job now with that exit code; never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    if runtime.size > 1 and runtime.controller == "mpi":
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(code)
    os._exit(code)


class StopRequest:
    """SIGTERM or SIGUSR1 (a preempted job) noted, for the loop to save and leave.

    The ranks vote with one asynchronous integer a step, read a step later, so that
    all leave after the same step and none waits for the vote.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._asked = False
        self._handle: int | None = None
        for number in self._SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def poll(self) -> bool:
        """Whether any rank had been asked when the last poll was made."""
        asked = self._asked if self._runtime.size == 1 else self._vote()
        if asked:  # a signal sent again must not end the exit that is under way
            for number in self._SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        return asked

    def _vote(self) -> bool:
        import horovod.torch as hvd

        asked = self._handle is not None and bool(hvd.synchronize(self._handle).item())
        vote = torch.tensor([int(self._asked)], dtype=torch.int32)
        self._handle = hvd.allreduce_async(vote, op=hvd.Sum, name="stop")
        return asked

    def close(self) -> None:
        """Take in the vote that is under way."""
        if self._handle is not None:
            import horovod.torch as hvd

            hvd.synchronize(self._handle)
            self._handle = None
