"""Shares out pieces among ranks of unequal speed; each writes what it did."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from dathvd import work_queue
from dathvd.runtime import Runtime, start

COUNT = 40


def main(folder: Path, case: str) -> None:
    runtime: Runtime = start("cpu")
    mine: list[int] = []

    def work(number: int) -> None:
        mine.append(number)
        time.sleep(0.5 if runtime.rank == 1 else 0.01)

    if case == "lost" and runtime.rank == 2:
        asked = work_queue._ask
        work_queue._ask = lambda *place: asked(*place) and None  # takes one, loses it
    if case == "unreachable" and runtime.rank == 2:
        work_queue._reaches = lambda host, port: False
    work_queue.share_out(runtime, COUNT, work)
    (folder / f"{case}-{runtime.rank}.json").write_text(json.dumps(mine))


if __name__ == "__main__":
    for name in ("uneven", "lost", "unreachable"):
        main(Path(sys.argv[1]), name)
