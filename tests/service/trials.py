"""Many random trials of the local engine: ``python -m tests.service.trials 100``.

In each trial jobs are submitted while submitters and supervisors are killed at random
moments; afterwards every state must be right, no run started twice and none lost.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from dathvd.service import submission
from tests.service import stub
from tests.service.test_local import trial


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
            ended.update(trial(root / "runs", random.Random(seed), jobs=4, kills=6))
        print(f"trial {seed}: {dict(ended)}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
