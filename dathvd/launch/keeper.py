"""Ends a job whose launcher was killed: ``python -P -m dathvd.launch.keeper PID``.

``horovodrun`` becomes a shell with mpirun below it; both would go on. This process
waits on a pipe from the launcher: a byte means that all is over, an end without one
that the launcher is dead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from dathvd.launch.tree import end_tree


class Keeper:
    """The launcher's end of the pipe."""

    def __init__(self, pid: int) -> None:
        """Watch over a process and all that descend from it."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dathvd.launch.keeper", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def dismiss(self) -> None:
        """All is over."""
        self._process.communicate(b"x")


def main() -> None:
    """Wait for the byte or for the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not os.read(0, 1):
        end_tree(int(sys.argv[1]))


if __name__ == "__main__":
    main()
