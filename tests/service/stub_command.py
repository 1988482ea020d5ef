"""What a stub of a job does: ``python -S stub_command.py RUN SECONDS``.

It notes its start in ``RUN/starts``, sleeps, writes a result and ends; when it is asked
to, it writes a checkpoint and ends with 75. A file ``RUN/fail`` makes it fail, and a
file ``RUN/wake`` ends its sleep.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def stop(number: int, frame: object) -> None:
    os.makedirs(f"{sys.argv[1]}/checkpoints/step-00000001", exist_ok=True)
    os._exit(75)


def main() -> int:
    run = sys.argv[1]
    signal.signal(signal.SIGUSR1, stop)
    signal.signal(signal.SIGTERM, stop)
    with open(f"{run}/starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    ends = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < ends and not os.path.exists(f"{run}/wake"):
        time.sleep(0.02)
    if os.path.exists(f"{run}/fail"):
        print("dathvd: error: rank 1 on here: it had to be", file=sys.stderr)
        return 1
    with open(f"{run}/result.tmp", "w") as file:
        file.write('{"robust_accuracy": 0.5}')
    os.rename(f"{run}/result.tmp", f"{run}/result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
