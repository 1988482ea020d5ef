"""The doctor behind the page: it examines the server's host and its engines.

The examination is ``dathvd doctor`` in a process of its own, as a wrong build of a
library may end or hang a process that imports it.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dathvd.doctor.finding import Finding
from dathvd.service.engines.answers import engine_findings

SECONDS = 300.0
"""How long an examination may take."""


@dataclass(frozen=True)
class Examination:
    """What was found, and when."""

    at: float
    """Seconds since 1970, when it ended."""
    host: str
    findings: list[Finding]
    """Of the host, as ``dathvd doctor`` has them."""
    engines: list[Finding]
    num_proc: int
    """Ranks that were started and compared; 0 for none."""
    ranks: str
    """What they said."""

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


class Doctor:
    """Examines in the background, one examination at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.last: Examination | None = None
        """The newest examination that has ended."""

    @property
    def is_busy(self) -> bool:
        """Whether an examination is under way."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, num_proc: int = 0) -> None:
        """Examine, unless it does so already.

        Args:
            num_proc: ranks to start on this host and compare; 0 for none.
        """
        with self._lock:
            if self.is_busy:
                return
            self._thread = threading.Thread(
                target=self._examine, args=(num_proc,), name="doctor", daemon=True
            )
            self._thread.start()

    def _examine(self, num_proc: int) -> None:
        findings = _local_findings()
        ranks = _doctor(["-np", str(num_proc)]) if num_proc else ""
        self.last = Examination(
            time.time(), platform.node(), findings, engine_findings(), num_proc, ranks
        )


def _local_findings() -> list[Finding]:
    text = _doctor(["--json"])
    try:
        return [Finding(**each) for each in json.loads(text)]
    except (ValueError, TypeError):
        last = (text.strip().splitlines() or ["it said nothing"])[-1]
        remedy = "run dathvd doctor in a terminal"
        return [Finding("Doctor", last[:300], "FAIL", remedy)]


def _doctor(words: Sequence[str]) -> str:
    """What ``dathvd doctor`` prints; what went wrong in the place of nothing."""
    command = [sys.executable, "-P", "-m", "dathvd", "doctor", *words]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS:.0f} s"
    return done.stdout or done.stderr
