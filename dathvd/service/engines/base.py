"""What the service asks of an engine: five things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from dathvd.service.record import Job


class Unreachable(Exception):
    """The engine did not answer; its message says why. Nothing is known of its jobs."""


@dataclass(frozen=True)
class View:
    """What an engine says of one attempt that it knows."""

    state: Literal["queued", "running", "ended"]
    reason: str = ""
    """Why it waits, where it runs, or how it ended."""
    code: int | None = None
    """The exit code of an attempt that ended, where the engine kept it."""


@dataclass(frozen=True)
class Submitted:
    """A job with its run folder, and the engine's own id where that is recorded."""

    run: Path
    job: Job
    engine_id: str | None


class Engine(Protocol):
    """Where attempts run. An engine object is cheap and keeps nothing."""

    name: ClassVar[str]
    option_names: ClassVar[Mapping[str, str]]
    """The options that it takes, each with a line of help."""

    def submit(self, run: Path, job: Job) -> str:
        """Hand an attempt over, under the name ``job.name``; the engine's own id.

        Raises:
            UserError: the engine refuses it: too many ranks, an option is not valid.
            Unreachable: the engine did not answer; it may have taken the attempt.
        """

    def find(self, run: Path, job: Job) -> str | None:
        """The engine's own id of the attempt, looked up by its name.

        Raises:
            Unreachable: the engine did not answer.
        """

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View | Unreachable]:
        """What the engine says of these attempts, by uuid, with one question for all.

        An attempt that the engine does not know is left out. One that cannot be asked
        about, as it belongs to another host, has the reason as its entry.

        Raises:
            Unreachable: the engine did not answer.
        """

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        """End an attempt, queued or running: let it save, or ``now`` without saving.

        The request itself is recorded before (``record.write_stop``).

        Raises:
            Unreachable: the engine did not answer.
        """

    def resume(self, run: Path, job: Job) -> str:
        """Hand over a further attempt of a job that ended; the engine's own id.

        Raises:
            UserError, Unreachable: as ``submit``.
        """
