"""What the ranks of one launch measure; a file that every rank reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from dathvd.config import Config
from dathvd.files import write_text

PLAIN = "horovod"
"""The codec of a point that is Horovod's own optimizer and nothing of dathvd's."""
Overlap = Literal["none", "attack"]


@dataclass(frozen=True)
class Point:
    """One way to take the step."""

    codec: str
    exchange: str
    overlap: Overlap


class Plan(BaseModel):
    """The points of one launch, taken in turn so that all meet the same conditions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: Config
    """``train.batch_size`` is that of all workers together."""
    points: tuple[Point, ...]
    """Besides these, a step without any communication is always measured."""
    warmup: int
    repeats: int
    seconds: float
    """No round begins later than so many seconds after the first timed one, once
    three rounds are timed."""
    pin: bool
    """Give each worker its own cores."""
    shared_machine: bool
    """All hosts are one machine's (a rig)."""
    rate: str | None
    """The rate of the rig's links, such as ``"200mbit"``; None on real hosts."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_text(path, self.model_dump_json(indent=2))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what ``save`` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))
