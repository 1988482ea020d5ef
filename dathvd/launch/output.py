"""What a rank says: forwarded with its number, kept in a log, searched for errors."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from typing import IO, BinaryIO

from dathvd.launch.report import error_text

_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')


class Output:
    """Where the lines of both streams go, one whole line at a time."""

    def __init__(self, rank: int, log: BinaryIO | None) -> None:
        self._prefix = f"[{rank}] ".encode()
        self._log = log
        self._lock = threading.Lock()
        self.error = ""
        self.last = ""
        self.stalled = False
        self.frames: list[str] = []
        """The frames of the thread that was printed last, innermost first."""

    def copy(self, source: IO[bytes], target: BinaryIO) -> None:
        """Forward a stream to its end."""
        for line in iter(source.readline, b""):
            self.write(line, target)

    def write(self, line: bytes, target: BinaryIO) -> None:
        """Log a line and forward it, unless it is the error that the report carries.

        Neither a full disk under the log nor a launcher that reads no more keeps the
        line from the other, or from being searched.
        """
        line = line if line.endswith(b"\n") else line + b"\n"
        with self._lock:
            text = line.decode(errors="replace").rstrip()
            error = error_text(text.strip())
            if error is not None:
                self.error = error
            elif target is sys.stderr.buffer and text:
                self.last = text.strip()
            self._note_frame(text)
            if self._log is not None:
                with contextlib.suppress(OSError, ValueError):
                    self._log.write(line)
            if error is None:
                with contextlib.suppress(OSError, ValueError):
                    target.write(self._prefix + line)
                    target.flush()

    def _note_frame(self, text: str) -> None:
        """Follow the dump that SIGUSR2 brings about: the main thread comes last."""
        if text.startswith(("Thread 0x", "Current thread 0x")):
            self.frames.clear()
        elif match := _FRAME.match(text):
            file, line, function = match.groups()
            self.frames.append(f"{file}:{line} in {function}")
