"""What the ranks of a job have in common, and how fast they talk."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dathvd.doctor.finding import Finding

if TYPE_CHECKING:
    import torch

    from dathvd.runtime import Runtime

_ELEMENTS = 4 << 20  # 16 MiB of float32
_SECONDS = 1.0
_SKEW = 2.0  # seconds


@dataclass(frozen=True)
class RankFacts:
    """What one rank tells the others."""

    rank: int
    host: str
    versions: tuple[tuple[str, str], ...]
    code: str
    """Hash of dathvd's own sources."""
    device: str
    memory_gib: float
    """Free memory of the rank's GPU, or of its host."""
    threads: int
    clock: float
    """Seconds since 1970, read at the same moment on all ranks."""
    folder: str

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> RankFacts:
        """What ``asdict`` gave on another rank, where tuples have become lists."""
        versions = tuple((name, version) for name, version in fields["versions"])
        return cls(**{**fields, "versions": versions})


def rank_findings(runtime: Runtime) -> list[Finding]:
    """Compare the ranks and measure their links; collective, the same on every rank."""
    import horovod.torch as hvd

    from dathvd.runtime import gather_json

    hvd.barrier()
    own = gather_facts(runtime, time.time())
    everyone = gather_json(asdict(own), "doctor.facts", runtime.size)
    facts = [RankFacts.from_json(fields) for fields in everyone]
    return [
        Finding("Ranks", runtime.describe()),
        *compare(facts),
        allreduce_speed(runtime),
        alltoall_speed(runtime),
    ]


def gather_facts(runtime: Runtime, clock: float) -> RankFacts:
    """This rank's facts."""
    import psutil
    import torch

    from dathvd.run_folder import versions

    if runtime.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(runtime.device)
        device = torch.cuda.get_device_name(runtime.device)
    else:
        free, device = psutil.virtual_memory().available, "cpu"
    return RankFacts(
        rank=runtime.rank,
        host=socket.gethostname(),
        versions=tuple(versions().items()),
        code=code_hash(),
        device=device,
        memory_gib=free / (1 << 30),
        threads=runtime.num_threads,
        clock=clock,
        folder=os.getcwd(),
    )


def code_hash() -> str:
    """Hash of the package's sources, in the order of their names."""
    import dathvd

    root = Path(dathvd.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def compare(facts: Sequence[RankFacts]) -> list[Finding]:
    """What must be the same on all ranks, and what each has."""
    first = facts[0]
    findings = []
    other = [f for f in facts if f.versions != first.versions]
    if other:
        told = "; ".join(_difference(first, f) for f in other[:3])
        remedy = "set all hosts up from the same checkout: make setup"
        findings.append(Finding("Versions", told, "FAIL", remedy))
    else:
        findings.append(Finding("Versions", "the same on all ranks"))
    other = [f for f in facts if f.code != first.code]
    if other:
        told = f"rank {other[0].rank} on {other[0].host} runs other code than rank 0"
        remedy = "bring the same commit to all hosts"
        findings.append(Finding("Code", told, "FAIL", remedy))
    else:
        findings.append(Finding("Code", f"the same on all ranks ({first.code})"))
    skew = max(f.clock for f in facts) - min(f.clock for f in facts)
    if skew > _SKEW:
        remedy = "start an NTP service on all hosts"
        findings.append(Finding("Clocks", f"{skew:.1f} s apart", "warn", remedy))
    else:
        findings.append(Finding("Clocks", f"within {skew:.2f} s"))
    for f in facts:
        value = f"{f.device}, {f.memory_gib:.1f} GiB free, {f.threads} threads"
        findings.append(Finding(f"Rank {f.rank} on {f.host}", value))
    return findings


def _difference(first: RankFacts, other: RankFacts) -> str:
    here, there = dict(first.versions), dict(other.versions)
    name = next(n for n in {**here, **there} if here.get(n) != there.get(n))
    return (
        f"{name} {there.get(name)} on rank {other.rank} ({other.host}), "
        f"{here.get(name)} on rank 0"
    )


def allreduce_speed(runtime: Runtime) -> Finding:
    """A second of allreduce; the rate counts what a ring sends: 2 (n - 1) / n."""
    import horovod.torch as hvd

    def action(tensor: torch.Tensor) -> None:
        hvd.allreduce_(tensor, op=hvd.Sum, name="doctor.allreduce")

    n = runtime.size
    return _measure(runtime, "Allreduce", action, 2 * (n - 1) / n)


def alltoall_speed(runtime: Runtime) -> Finding:
    """A second of alltoall; the rate counts what a rank sends to others."""
    import horovod.torch as hvd

    def action(tensor: torch.Tensor) -> None:
        hvd.alltoall(tensor, name="doctor.alltoall")

    return _measure(runtime, "Alltoall", action, (runtime.size - 1) / runtime.size)


def _measure(
    runtime: Runtime, name: str, action: Callable[[torch.Tensor], None], share: float
) -> Finding:
    """Time ``action`` for about a second; every rank makes the same calls."""
    import torch

    from dathvd.runtime import from_root

    elements = _ELEMENTS - _ELEMENTS % runtime.size
    tensor = torch.zeros(elements, device=runtime.device)
    action(tensor)
    start = time.perf_counter()
    action(tensor)
    repeats = max(1, int(_SECONDS / max(1e-4, time.perf_counter() - start)))
    repeats = from_root(runtime, repeats)
    start = time.perf_counter()
    for _ in range(repeats):
        action(tensor)
    seconds = (time.perf_counter() - start) / repeats
    rate = share * tensor.numel() * 4 / seconds / 1e6
    size = tensor.numel() * 4 / (1 << 20)
    return Finding(name, f"{size:.0f} MiB in {seconds * 1e3:.1f} ms, {rate:.0f} MB/s")
