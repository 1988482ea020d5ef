"""From options to the end of the job: checks, attempts, restarts, the last word."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.launch.command import launch_command, launch_environment
from dathvd.launch.engines import installed_engines
from dathvd.launch.options import LaunchOptions
from dathvd.launch.reach import check_hosts
from dathvd.launch.supervise import Attempt, Outcome


@dataclass(frozen=True)
class Plan:
    """All that is decided before anything starts."""

    command: list[str]
    environment: dict[str, str]
    run_dir: Path | None

    def to_shell(self, inherited: Mapping[str, str]) -> str:
        """The command to paste into a shell, with what was added and left out here."""
        added = {
            name: value
            for name, value in self.environment.items()
            if inherited.get(name) != value
        }
        settings = [f"{name}={value}" for name, value in added.items()]
        for name in sorted(set(inherited) - set(self.environment)):
            settings = ["-u", name, *settings]
        return shlex.join(["env", *settings, *self.command])


def make_plan(
    options: LaunchOptions, arguments: Sequence[str], environ: Mapping[str, str]
) -> Plan:
    """Decide the command, its environment and the run folder.

    Args:
        options: How many ranks, and where.
        arguments: Those of ``dathvd`` on every rank, such as ``["train", …]``.
        environ: This process's environment.

    Raises:
        UserError: no engine is there, or an option is not valid.
    """
    words, run_dir = with_run_dir(arguments)
    cores = os.cpu_count() or 1
    environment = launch_environment(environ, options, cores=cores)
    logs = ["--logs", str(run_dir / "logs")] if run_dir else []
    worker = [sys.executable, "-m", "dathvd.launch.worker", *logs, "--", *words]
    command = launch_command(
        options, worker, installed=installed_engines(), environment=environment
    )
    return Plan(command, environment, run_dir)


def with_run_dir(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments with a run folder: a restart must find the first try's."""
    words = list(arguments)
    for place, word in enumerate(words):
        if word.startswith("--run-dir="):
            return words, Path(word.partition("=")[2])
        if word == "--run-dir" and place + 1 < len(words):
            return words, Path(words[place + 1])
    if words[:1] != ["train"] or {"-h", "--help"} & set(words):
        return words, None
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir = Path("runs") / stamp
    return [*words, "--run-dir", str(run_dir)], run_dir


def launch(plan: Plan, options: LaunchOptions, *, restarts: int, grace: float) -> int:
    """Run the plan, again from the last checkpoint after a failure.

    Args:
        plan: What to run.
        options: Where, for the check that the hosts can be reached.
        restarts: How many times a failed job is started again; a user's error and a
            stop by signal are not failures to repeat.
        grace: Seconds that ranks get to save when asked to stop.

    Returns:
        0; 2 for a user's error; 75 for stopped and saved; 130 for Ctrl-C; else 1.
    """
    check_hosts(options)
    for attempt in range(restarts + 1):
        outcome = Attempt(plan.command, plan.environment, grace=grace).wait()
        _tell(outcome, plan)
        again = outcome.exit_code == 1 and outcome.stopped_by is None
        if not again or attempt == restarts:
            break
        pause = min(2.0**attempt, 60.0)
        _say(
            f"restart {attempt + 1} of {restarts} in {pause:.0f} s, "
            "from the last checkpoint"
        )
        time.sleep(pause)
    return outcome.exit_code


def _tell(outcome: Outcome, plan: Plan) -> None:
    """The failing rank's message first, then where the rest is to be found."""
    sys.stdout.flush()
    logs = f"; logs: {plan.run_dir / 'logs'}" if plan.run_dir else ""
    if outcome.stopped_by is not None:
        how = signal.Signals(outcome.stopped_by).name
        saved = any(end.code == TEMPORARY_FAILURE for end in outcome.ends)
        state = "a checkpoint is saved; the same command goes on" if saved else "ended"
        _say(f"stopped by {how}: {state}{logs}")
    elif outcome.cause is not None:
        _say(f"error: {outcome.cause.describe()}{logs}")
        if not outcome.cause.message:
            sys.stderr.buffer.write(b"".join(outcome.held[-40:]))
            sys.stderr.flush()
    elif outcome.exit_code == 1:
        _say(f"error: the launcher ended with exit code {outcome.code}{logs}")


def _say(line: str) -> None:
    print(f"dathvd: {line}", file=sys.stderr, flush=True)
