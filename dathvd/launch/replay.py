"""A run's history of memberships, trained again: the same workers at the same steps."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dathvd.errors import UserError
from dathvd.launch.attempts import Job, make_plan, say, with_run_dir
from dathvd.launch.options import LaunchOptions
from dathvd.ranks import under_launcher
from dathvd.run_history import read, segments

_GRACE = 60.0


def replay(history: Path, arguments: Sequence[str]) -> int:
    """Start as many workers as the history had, stretch by stretch, on this machine.

    Args:
        history: a run folder or its ``history.jsonl``.
        arguments: those of ``dathvd`` for the new run, such as ``["train", …]``.

    Returns:
        The exit code: 0 where the run is finished; the same command goes on.

    Raises:
        UserError: there is no such history, or it cannot be replayed.
    """
    if under_launcher():
        raise UserError("--replay-history starts the workers itself: use no launcher")
    if not history.exists():
        raise UserError(f"--replay-history {history}: no such file or folder")
    stretches = segments(read(history))
    if not stretches:
        raise UserError(f"--replay-history {history}: holds no history")
    words, _ = with_run_dir(arguments)
    for stretch in stretches:
        until = f"step {stretch.end}" if stretch.end else "the end"
        say(f"replaying {stretch.size} workers until {until}")
        options = LaunchOptions(num_proc=stretch.size)
        leave = ["--set", f"train.max_steps={stretch.end}"]
        plan = make_plan(options, [*words, *leave], os.environ)
        code = Job(plan, options, restarts=0, grace=_GRACE).run()
        if code:
            return code
    return 0
