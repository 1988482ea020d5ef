"""An engine of a user's own, which keeps every attempt waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from dathvd.service.engines.base import Submitted, View
from dathvd.service.record import Job


class Shelf:
    """Takes attempts and starts none."""

    name: ClassVar[str] = "shelf"
    option_names: ClassVar[Mapping[str, str]] = {"board": "Which board it lies on."}

    def submit(self, run: Path, job: Job) -> str:
        """The attempt's own name."""
        return job.name

    def find(self, run: Path, job: Job) -> str | None:
        """The attempt's own name."""
        return job.name

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View]:
        """All of them wait."""
        return {each.job.uuid: View("queued", "on the shelf") for each in jobs}

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        """Nothing runs."""

    def resume(self, run: Path, job: Job) -> str:
        """The attempt's own name."""
        return job.name
