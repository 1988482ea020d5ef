"""One worker among others: start, agree on errors, end together.

The only module that uses mpi4py. Under MPI it is what ends every rank at once; under
Gloo the launcher does that as soon as one process has gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from dathvd import heartbeat, stop
from dathvd.errors import UserError, error_line
from dathvd.files import explain_os_errors
from dathvd.hashing import raw_bytes
from dathvd.ranks import launched_local_size, launched_size, under_launcher

T = TypeVar("T")

PROCESS_SETS = "HOROVOD_DYNAMIC_PROCESS_SETS"
"""The variable that, set to 1 before ``hvd.init()``, lets ranks form process sets."""
PART = 2**26
"""Bytes that one collective carries at most: MPI counts in 31 bits, so that no
checkpoint of 2 GiB could be sent in one."""


class AgreedError(UserError):
    """A user's error that every rank raises together; rank 0 alone prints it."""

    agreed = True

    def __init__(
        self, message: str, exit_code: int = 2, unreadable: bool = False
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.unreadable = unreadable


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
    if not under_launcher():
        # a single worker: Open MPI need not look for networks, nor start its daemon
        os.environ.setdefault("OMPI_MCA_pml", "ob1")
        os.environ.setdefault("OMPI_MCA_ess_singleton_isolated", "1")
    # Open MPI waits by asking again and again: the thread with which Horovod awaits the
    # other ranks, a thousand times a second, would take a core from those that compute,
    # which are all of the host's
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    if launched_size() > launched_local_size():
        # the hierarchical exchange forms process sets of each node's ranks
        os.environ.setdefault(PROCESS_SETS, "1")
    hvd.init()
    chosen = AgreedDevice(device, hvd.local_rank(), hvd.local_size()).resolve()
    runtime = Runtime(
        rank=hvd.rank(),
        size=hvd.size(),
        local_rank=hvd.local_rank(),
        local_size=hvd.local_size(),
        device=chosen,
        controller="mpi" if hvd.mpi_enabled() else "gloo",
        num_threads=_share_threads(hvd.size()),
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


def _share_threads(size: int) -> int:
    """Cores that this host's ranks may use, divided among them (at least 1)."""
    if os.environ.get("OMP_NUM_THREADS", "").isdigit():
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    mine = [socket.gethostname(), sorted(os.sched_getaffinity(0))]
    everyone = gather_json(mine, "threads", size)
    local = [cores for host, cores in everyone if host == mine[0]]
    return max(1, len({core for cores in local for core in cores}) // len(local))


def gather_json(value: Any, name: str, size: int) -> list[Any]:
    """Every rank's value, by rank; nothing that arrives is executed, unlike pickle.

    Args:
        value: numbers, text, booleans, None, and lists and dictionaries of them;
            tuples arrive as lists.
        name: of the collective; equal on all ranks, unique while it is under way.
        size: the number of ranks.
    """
    return [json.loads(data) for data in _gather_bytes(_to_json(value), name, size)]


def _to_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _gather_bytes(data: bytes, name: str, size: int) -> list[bytes]:
    """Every rank's bytes, at least one each."""
    if size == 1:
        return [data]
    import horovod.torch as hvd

    own = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    lengths = hvd.allgather(torch.tensor([len(data)]), name=f"{name}.lengths")
    everyone = hvd.allgather(own, name=f"{name}.bytes")
    return [bytes(part.numpy()) for part in everyone.split(lengths.tolist())]


def bytes_from_root(data: bytes, name: str, root: int = 0) -> bytes:
    """One rank's bytes; what other ranks give is not looked at."""
    import horovod.torch as hvd

    mine = hvd.rank() == root
    length = torch.tensor([len(data)])
    length = hvd.broadcast(length, root_rank=root, name=f"{name}.length")
    sent = torch.empty(int(length.item()), dtype=torch.uint8)
    if mine and data:
        sent = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    fill_from_root(sent, f"{name}.bytes", root)
    return data if mine else bytes(sent.numpy())


def fill_from_root(tensor: Tensor, name: str, root: int = 0) -> None:
    """Fill a tensor with one rank's values, bit by bit, in parts. A collective.

    Args:
        tensor: of any layout, and of the same shape and type on every rank.
        name: of the collective; equal on all ranks, unique while it is under way.
        root: whose values.
    """
    import horovod.torch as hvd

    flat = raw_bytes(tensor)
    for start in range(0, len(flat), PART):
        hvd.broadcast_(flat[start : start + PART], root_rank=root, name=name)
    in_place = flat.data_ptr() == tensor.data_ptr()  # it is in row-major order
    if hvd.rank() != root and not in_place:
        tensor.copy_(flat.view(tensor.dtype).view(tensor.shape))


def together(runtime: Runtime, action: Callable[[], T]) -> T:
    """Run ``action`` on every rank; if it fails on any, fail on all.

    Raises:
        AgreedError: the first failing rank's message, on every rank.
    """
    result: T | None = None
    failure = None
    with heartbeat.resting():
        try:
            result = action()
        except UserError as error:
            failure = [str(error), error.exit_code, error.unreadable]
        failures = gather_json(failure, "together", runtime.size)
    failed = [rank for rank, each in enumerate(failures) if each is not None]
    if failed:
        everywhere = len(failed) == runtime.size
        where = "" if everywhere else f"[rank {failed[0]}] "
        message, code, unreadable = failures[failed[0]]
        raise AgreedError(where + message, code, unreadable)
    return result  # type: ignore[return-value]


def from_root(runtime: Runtime, value: T) -> T:
    """Rank 0's value on every rank; of the kinds that ``gather_json`` takes."""
    if runtime.size == 1:
        return value
    data = _to_json(value) if runtime.is_root else b""
    with heartbeat.resting():
        sent: T = json.loads(bytes_from_root(data, "from_root"))
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

    name, data = together(runtime, read)
    if runtime.size == 1:
        return name, data
    with heartbeat.resting():
        return from_root(runtime, name), bytes_from_root(data, "read_on_root")


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
    """End every rank when this one fails, with this rank's message.

    What all ranks raise together, rank 0 alone says, and none ends before that. To its
    companion each rank says it: the launcher may hear of any of them first.
    """
    try:
        yield
    except AgreedError as error:
        if runtime.is_root or heartbeat.has_companion():
            print(error_line(str(error)), file=sys.stderr, flush=True)
        error.told = True
        _wait_for_all(runtime)
        raise
    except UserError as error:
        _say(runtime, error_line(str(error)))
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


def _wait_for_all(runtime: Runtime) -> None:
    """Go on when every rank has come here, or one has gone."""
    if runtime.size == 1:
        return
    import horovod.torch as hvd
    from horovod.common.exceptions import HorovodInternalError

    with contextlib.suppress(HorovodInternalError):
        hvd.barrier()


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
    """A wish to stop (a preempted job), for the loop to save and leave.

    The ranks vote with a few asynchronous integers a step, read a step later, so that
    all leave after the same step and none waits for the vote. What else they are to
    agree on goes with it.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._handle: int | None = None
        self.votes = [0, 0]
        """How many ranks had said yes to either question when the last poll was made;
        equal on all ranks."""
        stop.listen()

    def poll(self, one: bool = False, other: bool = False) -> bool:
        """Whether any rank had been asked when the last poll was made.

        Args:
            one: this rank's vote on another question.
            other: and on a second one.
        """
        heartbeat.beat(heartbeat.TRAINING)
        mine = [int(stop.asked()), int(one), int(other)]
        asked, *self.votes = mine if self._runtime.size == 1 else self._vote(mine)
        if asked:  # a signal sent again must not end the exit that is under way
            stop.ask()
            stop.ignore_signals()
        return bool(asked)

    def _vote(self, mine: list[int]) -> list[int]:
        import horovod.torch as hvd

        before = [0] * len(mine)
        if self._handle is not None:
            before = hvd.synchronize(self._handle).tolist()
        vote = torch.tensor(mine, dtype=torch.int32)
        self._handle = hvd.allreduce_async(vote, op=hvd.Sum, name="stop")
        return before

    def close(self) -> None:
        """Take in the vote that is under way."""
        if self._handle is not None:
            import horovod.torch as hvd

            hvd.synchronize(self._handle)
            self._handle = None
        heartbeat.rest()
