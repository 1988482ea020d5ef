"""A stand-in for ``dathvd`` as a rank: quick to start, and it fails to order.

``python -m tests.system.launched_rank BEHAVIOUR [FILE]`` under the rank's companion.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from dathvd import heartbeat
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
    if behaviour == "fail-after-saving":
        return fail_after_saving(rank, Path(file).parent)
    if behaviour == "hang":
        for _ in range(4):
            time.sleep(0.1)
            heartbeat.beat(heartbeat.TRAINING)
        if rank == 1:
            stuck()
        heartbeat.rest()
    if rank == 1 and behaviour == "refuse":
        print("[rank 1] dathvd: error: no such file", file=sys.stderr)
        return 2
    if rank == 1 and behaviour == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "save":
        signal.signal(signal.SIGUSR1, save)
        print("ready", flush=True)
    if behaviour == "stand-still":
        Path(f"{file}.{rank}").write_text(str(os.getpid()))
        print("ready", flush=True)
    if behaviour == "sleep":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(f"{file}.{rank}").write_text(str(os.getpid()))
        print("ready", flush=True)
    time.sleep(120)
    return 0


def fail_after_saving(rank: int, run: Path) -> int:
    """Rank 0 saves, then fails, three times; both end well at the fourth."""
    saved = len(list((run / "checkpoints").glob("*")))
    if rank == 0 and saved < 3:
        (run / "config.yaml").touch()
        (run / "checkpoints" / f"step-{saved + 1:08d}").mkdir(parents=True)
        return 1
    if saved < 3:
        time.sleep(120)
    return 0


def stuck() -> None:
    """Hang."""
    time.sleep(120)


def save(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # as dathvd does: it may be sent again
    sys.exit(75)


if __name__ == "__main__":
    if sys.argv[1] == "rank":
        faulthandler.register(signal.SIGUSR2, all_threads=True)
        sys.exit(main(sys.argv[2], sys.argv[3]))
    logs = Path(sys.argv[1])
    arguments = ["-m", "tests.system.launched_rank", "rank", *sys.argv[2:]]
    sys.exit(run([sys.executable, *arguments], logs, stall_limit=2.0))
