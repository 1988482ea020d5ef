"""The signals that ask a launcher to stop, kept from its first moment to its last."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignals:
    """Ctrl-C, SIGTERM and SIGUSR1, in the order they came; a context manager."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._note) for n in _NUMBERS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.numbers.append(number)

    def wait(self, seconds: float) -> bool:
        """Sleep; whether a signal had come before or has come meanwhile."""
        deadline = time.monotonic() + seconds
        while not self.numbers and time.monotonic() < deadline:
            time.sleep(0.05)
        return bool(self.numbers)
