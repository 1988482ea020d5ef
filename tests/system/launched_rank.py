"""A stand-in for ``dathvd`` as a rank: quick to start, and it fails to order.

``python -m tests.system.launched_rank BEHAVIOUR [FILE]`` under the rank's companion.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from dathvd.launch.worker import run
from dathvd.ranks import launched_rank


def main(behaviour: str, file: str) -> int:
    rank = launched_rank()
    if behaviour == "fail-once":  # rank 1, the first time
        mark = Path(file)
        if rank == 1 and not mark.exists():
            mark.write_text("")
            print("RuntimeError: lightning", file=sys.stderr)
            return 1
        print("done")
        return 0
    if rank == 1 and behaviour == "refuse":
        print("[rank 1] dathvd: error: no such file", file=sys.stderr)
        return 2
    if rank == 1 and behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "save":
        signal.signal(signal.SIGUSR1, save)
        print("ready", flush=True)
    if behaviour == "sleep":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(f"{file}.{rank}").write_text(str(os.getpid()))
        print("ready", flush=True)
    time.sleep(120)
    return 0


def save(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # as dathvd does: it may be sent again
    sys.exit(75)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        sys.exit(main(sys.argv[2], sys.argv[3]))
    logs = Path(sys.argv[1])
    arguments = ["-m", "tests.system.launched_rank", "rank", *sys.argv[2:]]
    sys.exit(run([sys.executable, *arguments], logs))
