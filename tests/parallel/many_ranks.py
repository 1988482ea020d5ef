"""Counts of exchanges on many real ranks, beside what the formulas foretell.

``python -m tests.parallel.many_ranks 16 64`` starts the ranks, more than there are
cores, and prints a table. What is counted (calls, bytes, memory) does not ask for a
core a rank; seconds tell of this machine alone. No test runs it: 64 ranks take minutes.

Eight ranks are told that they are a node. Counts that differ from their formula, or
weights that differ between ranks, end it with an error.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import horovod.torch as hvd
import psutil
import torch
from torch import Tensor

from dathvd.benchmark.speedup.scale import Cluster, traffic
from dathvd.compression import COMPRESSORS
from dathvd.distributed import DistributedOptimizer
from dathvd.distributed.placement import Placement
from dathvd.optim.start import leave_out_compiler
from tests.parallel.laws_of_nodes import placed
from tests.processes import mpirun

PER_NODE = 8
WAYS = (
    ("none", "allreduce"),
    ("int8", "two-way"),
    ("sign", "two-way"),
    ("sign", "hierarchical"),
    ("topk", "hierarchical"),
)
HEAD = (
    "ranks",
    "codec, exchange",
    "collectives",
    "bytes a rank sends",
    "by formula",
    "bytes of residuals",
    "MB of memory added",
    "bytes gathered to build",
    "seconds to build",
)
STEPS = 2
BLOCK = 16384  # values a worker: every codec's blocks divide every chunk


@dataclass
class Count:
    """What one way of exchanging has cost one rank, in a step unless said otherwise."""

    codec: str
    exchange: str
    calls: float
    """Collectives, each of one bucket."""
    sent: float
    """Bytes to other nodes' and this node's ranks, by the ledger."""
    told: float
    """The same by the formulas of ``dathvd.benchmark.speedup.scale``."""
    residuals: int
    """Bytes that error feedback keeps."""
    grown: float
    """MB of memory of its own that building and two steps have added."""
    gathered: int
    """Bytes that building the optimizer has gathered from all ranks."""
    seconds: float
    """Building the optimizer, process sets among it."""


@dataclass
class Report:
    """Of one rank."""

    init_seconds: float
    imported: float
    """MB of memory of its own before Horovod's start."""
    initialised: float
    """And after it."""
    counts: list[Count]


def own_megabytes() -> float:
    """Memory that this process shares with no other."""
    return float(psutil.Process().memory_full_info().uss) / 1e6


@contextmanager
def gathering() -> Iterator[list[int]]:
    """The bytes that blocking gathers have brought, one entry a call."""
    brought: list[int] = []
    original = hvd.allgather

    def counted(tensor: Tensor, **options: object) -> Tensor:
        everyone: Tensor = original(tensor, **options)
        brought.append(everyone.numel() * everyone.element_size())
        return everyone

    with mock.patch.object(hvd, "allgather", counted):
        yield brought


def measure() -> Report:
    """This rank's counts of all ways; a collective."""
    imported, began = own_megabytes(), time.monotonic()
    leave_out_compiler()
    hvd.init()
    report = Report(time.monotonic() - began, imported, own_megabytes(), [])
    ranks = range(hvd.size())
    nodes = tuple(tuple(ranks[first : first + PER_NODE]) for first in ranks[::PER_NODE])
    assert len(Placement.here().nodes) == 1  # a real gather of all places
    with placed(nodes):
        report.counts = [count(codec, exchange) for codec, exchange in WAYS]
    return report


def count(codec: str, exchange: str) -> Count:
    """One way's counts; a collective."""
    size, before, began = hvd.size(), own_megabytes(), time.monotonic()
    weights = torch.nn.Parameter(torch.zeros(size * BLOCK // 64, 64))
    with gathering() as brought:
        optimizer = DistributedOptimizer(
            torch.optim.SGD([weights], lr=1.0),
            compression=COMPRESSORS[codec](),
            exchange=exchange,
            bucket_bytes=4 * weights.numel(),
        )
    seconds = time.monotonic() - began
    for step in range(STEPS):
        noise = torch.Generator().manual_seed(size * step + hvd.rank())
        optimizer.zero_grad()
        (weights * torch.randn(weights.shape, generator=noise)).sum().backward()
        optimizer.step()
    sums = hvd.allgather(weights.detach().double().sum().view(1))
    assert (sums == sums[0]).all(), (codec, exchange)
    (bucket,) = optimizer.exchanger.exchanges
    ledger = optimizer.exchanger.ledger
    told = traffic(codec, exchange, weights.numel(), Cluster(size, PER_NODE, 1.0))
    each = told.leaving / PER_NODE + told.inside
    if exchange == "allreduce":
        each = told.leaving  # a ring has one link out of each node
    elif exchange == "two-way":
        each *= (size - 1) / (size - PER_NODE)  # the formula counts other nodes' alone
    kept = [end.residual for end in bucket.ends().values()]
    return Count(
        codec,
        exchange,
        calls=sum(entry.calls for entry in ledger.entries.values()) / STEPS,
        sent=ledger.sent_bytes / STEPS,
        told=each,
        residuals=sum(4 * each.numel() for each in kept if each is not None),
        grown=own_megabytes() - before,
        gathered=sum(brought),
        seconds=seconds,
    )


def to_lines(size: int, reports: list[Report]) -> list[str]:
    """The table's rows of one number of ranks, the most that any rank has counted."""
    lines = []
    for place, first in enumerate(reports[0].counts):
        here = [report.counts[place] for report in reports]
        sent = sum(each.sent for each in here) / size
        assert abs(sent - first.told) < 1e-6 * first.told, (first, sent)
        cells = [
            f"{size}",
            f"{first.codec}, {first.exchange}",
            f"{max(each.calls for each in here):g}",
            f"{sent:,.0f}",
            f"{first.told:,.0f}",
            f"{max(each.residuals for each in here):,}",
            f"{max(each.grown for each in here):.0f}",
            f"{max(each.gathered for each in here):,}",
            f"{max(each.seconds for each in here):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    memory = max(each.initialised for each in reports)
    started = max(each.init_seconds for each in reports)
    lines.append(
        f"{size} ranks: {memory:.0f} MB of a rank's own after the start of Horovod, "
        f"{max(each.imported for each in reports):.0f} before; the start took "
        f"{started:.1f} s"
    )
    return lines


def launch(size: int) -> list[Report]:
    """The reports of so many ranks, started on this machine."""
    with tempfile.TemporaryDirectory(prefix="many-ranks-") as folder:
        words = [sys.executable, "-m", __spec__.name, "--rank", folder]
        sets = {
            "HOROVOD_DYNAMIC_PROCESS_SETS": "1",
            "HOROVOD_CYCLE_TIME": f"{size}",
            "PATIENT_MICROSECONDS": f"{50 * size}",
        }
        done = mpirun(size, words, env=sets, timeout=1200)
        assert done.code == 0, done.output
        paths = [Path(folder, f"{rank}.json") for rank in range(size)]
        told = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [
        Report(**{**one, "counts": [Count(**each) for each in one["counts"]]})
        for one in told
    ]


def main() -> None:
    if sys.argv[1] == "--rank":
        torch.set_num_threads(1)
        report = json.dumps(asdict(measure()))
        Path(sys.argv[2], f"{hvd.rank()}.json").write_text(report, encoding="utf-8")
        return
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
    for size in map(int, sys.argv[1:]):
        if size % PER_NODE or size == PER_NODE:
            sys.exit(f"{size} ranks are not several nodes of {PER_NODE}")
        began = time.monotonic()
        print(*to_lines(size, launch(size)), sep="\n")
        print(f"all of it: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
