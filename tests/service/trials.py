"""Many random trials of the local engine: ``python -m tests.service.trials 100``.

In each trial jobs are submitted while submitters and supervisors are killed at random
moments; afterwards every state must be right, no run started twice and none lost.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dathvd.service import submission
from tests.service import stub
from tests.service.test_local import trial


def startup() -> float:
    """Seconds that a process of these trials takes to start, on this machine now."""
    began = time.monotonic()
    words = [sys.executable, "-c", "import tests.service.stub"]
    subprocess.run(words, check=True)
    return max(0.4, (time.monotonic() - began) / 2)


def main(count: int, first: int = 0) -> None:
    """Run the trials; say how the jobs ended."""
    stub.use()
    setattr(submission, "check", lambda request: None)
    ended: Counter[str] = Counter()
    for seed in range(first, first + count):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            root = Path(folder)
            os.environ["DATHVD_STATE"] = str(root / "queue")
            os.environ["DATHVD_SLOTS"] = "2"
            chance, pace = random.Random(seed), startup()
            ended.update(trial(root / "runs", chance, jobs=4, kills=6, pace=pace))
        print(f"trial {seed}: {dict(ended)}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
