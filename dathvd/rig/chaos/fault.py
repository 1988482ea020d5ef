"""What a fault is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dathvd.rig.chaos.job import Job


def _nothing(job: Job, random: Random) -> None:
    """Nothing is to be done."""


def _possible() -> str | None:
    return None


@dataclass(frozen=True)
class Fault:
    """Something that happens to a job."""

    what: str
    """In words."""
    strike: Callable[[Job, Random], None]
    mend: Callable[[Job, Random], None] = _nothing
    """What an operator does after the job has ended early, before the same command."""
    codes: frozenset[int] = frozenset({0})
    """With which exit codes a start may end."""
    missing: Callable[[], str | None] = _possible
    """What this machine lacks for it, if anything."""
    environment: Callable[[Path], Mapping[str, str]] = lambda folder: {}
    """What the job's processes need, by its folder."""
    disk_bytes: int = 0
    """Size of a disk of its own for the run folder; 0 needs none."""
    phases: tuple[str, ...] = ("start", "step", "step", "step", "evaluation")
    """When it may strike; what stands here twice is drawn twice as often."""
    elastic: bool = False
    """Whether the number of ranks may change: the end is then that of a replay."""
    hosts: int = 0
    """Hosts of a rig that the job runs on; 0: on this machine."""
    skips: int = 0
    """How many steps it makes all ranks skip: the end is then another, and sound."""
    least: int = 1
    """Fewest ranks of a job that can stand it."""
