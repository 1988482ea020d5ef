"""Run by the test of crossings on some ranks: carries out the tasks of a file.

Arguments: the folder of all runs, and a file of tasks in it. Rank 0 adds a line to
``outcomes.jsonl`` after every task.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch

from dathvd.runtime import Runtime, abort, start
from tests.parallel.crossings.trial import (
    Task,
    carry_out,
    describe_failure,
    leave_out_what_is_slow,
)


def main() -> None:
    folder, tasks = Path(sys.argv[1]), Path(sys.argv[2])
    runtime = start("cpu")
    torch.set_num_threads(1)
    leave_out_what_is_slow()
    for entry in json.loads(tasks.read_text()):
        task = Task(**entry)
        try:
            outcome = carry_out(task, folder, runtime)
        except Exception:
            # other ranks may wait for this one: end them all, and let what is left
            # be started anew
            write(folder, task, {"wrong": [describe_failure()], "refusal": None})
            abort(runtime, 3)
        write(folder, task, gathered(outcome, runtime))


def gathered(outcome: dict[str, Any], runtime: Runtime) -> dict[str, Any] | None:
    """Every rank's outcome as one, on rank 0."""
    if runtime.size == 1:
        return outcome
    everyone = hvd.allgather_object(outcome, name="crossings")
    if not runtime.is_root:
        return None
    wrong = {law: None for each in everyone for law in each["wrong"]}
    return {"wrong": list(wrong), "refusal": everyone[0]["refusal"]}


def write(folder: Path, task: Task, outcome: dict[str, Any] | None) -> None:
    """Add a line, if there is anything to say."""
    if outcome is not None:
        with (folder / "outcomes.jsonl").open("a") as file:
            file.write(json.dumps({**asdict(task), **outcome}) + "\n")


if __name__ == "__main__":
    main()
