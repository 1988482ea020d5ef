"""From options to the end of the job: checks, attempts, restarts, the last word."""

from __future__ import annotations

import re
import secrets
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from dathvd.errors import TEMPORARY_FAILURE
from dathvd.launch.command import launch_command, launch_environment
from dathvd.launch.elastic import Membership, Watcher
from dathvd.launch.launchers import installed_launchers
from dathvd.launch.options import LaunchOptions
from dathvd.launch.progress import Progress
from dathvd.launch.reach import hosts_that_answer
from dathvd.launch.signals import StopSignals
from dathvd.launch.supervise import Attempt, Outcome
from dathvd.launch.tree import WORKER

_LONGEST_PAUSE = 60.0
_EXCEPTION = re.compile(r"\w+(Error|Exception): ")
"""A message of Python's own: a program's error, where a machine's fault may pass."""


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
    options: LaunchOptions,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    stall_limit: float = 0.0,
) -> Plan:
    """Decide the command, its environment and the run folder.

    Args:
        options: How many ranks, and where.
        arguments: Those of ``dathvd`` on every rank, such as ``["train", …]``.
        environ: This process's environment.
        stall_limit: Seconds without a step after which a rank is ended; 0: none.

    Raises:
        UserError: no launcher is there, or an option is not valid.
    """
    words, run_dir = with_run_dir(arguments)
    environment = launch_environment(environ, options)
    watch = ["--stall-limit", f"{stall_limit:g}"] if stall_limit else []
    logs = ["--logs", str(run_dir / "logs")] if run_dir else []
    worker = [sys.executable, *WORKER, *watch, *logs, "--", *words]
    command = launch_command(
        options, worker, installed=installed_launchers(), environment=environment
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
    # two jobs that start in the same second must not share a folder
    run_dir = Path("runs") / f"{stamp}-{secrets.token_hex(2)}"
    return [*words, "--run-dir", str(run_dir)], run_dir


@dataclass
class Job:
    """Attempts at a plan until one is the last."""

    plan: Plan
    options: LaunchOptions
    restarts: int
    """How often in a row it is started again without a new checkpoint."""
    grace: float
    """Seconds that ranks get to save when asked to stop."""
    stall_limit: float = 0.0
    """Seconds without a step after which a rank is ended; 0: none."""
    replan: Callable[[LaunchOptions], Plan] | None = None
    """Makes a plan for fewer hosts; None: all hosts are needed."""
    members: Membership | None = None
    """Which hosts there are from attempt to attempt; None: always the same."""
    stop: StopSignals = field(default_factory=StopSignals)
    _last_failure: tuple[str, int] = ("", -1)

    def run(self) -> int:
        """Run to the last attempt's end and return the exit code."""
        with self.stop:
            progress = Progress(self.plan.run_dir)
            plan, options = self.plan, self.options
            while not self.stop.numbers:
                chosen = self._choose_hosts(plan, options)
                if chosen is None:
                    break
                plan, options = chosen
                outcome = self._attempt(plan, options)
                if outcome.made_way and not outcome.finished:
                    say("the hosts have changed; going on with those that serve now")
                    continue
                progress.look()
                _tell(outcome, plan, progress)
                code = outcome.exit_code(progress.has_checkpoint)
                broken = code == TEMPORARY_FAILURE and outcome.broken
                if not (code == 1 or broken) or outcome.stopped_by is not None:
                    return code
                if self._is_hopeless(outcome, progress) or not self._pause(progress):
                    return code
                if not self.stop.numbers:
                    plan, options = self._for_hosts_that_answer(plan, options)
            return self._stopped_between(progress)

    def _choose_hosts(
        self, plan: Plan, options: LaunchOptions
    ) -> tuple[Plan, LaunchOptions] | None:
        """The plan for the hosts that serve now; None where the job is to stop."""
        if self.members is None or self.replan is None:
            return plan, options
        chosen = self.members.wait(self.options, self.stop.wait)
        if chosen is None:
            return None
        say(f"{chosen.num_proc} ranks on {', '.join(map(str, chosen.hosts))}")
        return self.replan(chosen), chosen

    def _attempt(self, plan: Plan, options: LaunchOptions) -> Outcome:
        if self.members is None:
            return self._start(plan, options).wait()
        with Watcher(self.members, options) as watcher:
            outcome = self._start(plan, options, watcher.changed).wait()
        if outcome.cause is not None and outcome.stopped_by is None:
            self.members.suspect(outcome.cause.host)
        return outcome

    def _start(
        self,
        plan: Plan,
        options: LaunchOptions,
        make_way: Callable[[], bool] = lambda: False,
    ) -> Attempt:
        return Attempt(
            plan.command,
            plan.environment,
            num_proc=options.num_proc,
            grace=self.grace,
            stall_limit=self.stall_limit,
            stop=self.stop,
            make_way=make_way,
        )

    def _is_hopeless(self, outcome: Outcome, progress: Progress) -> bool:
        """Whether the program failed as it did the time before: it would again."""
        message = "" if outcome.cause is None else outcome.cause.message
        failure = (message, progress.last_step())
        again = failure == self._last_failure and bool(_EXCEPTION.match(message))
        self._last_failure = failure
        if again:
            say(f"the same error at step {failure[1]} twice: not started again")
        return again

    def _pause(self, progress: Progress) -> bool:
        """Wait before another attempt; False where there is to be none."""
        while progress.failures <= self.restarts:
            # the first at once: most faults pass
            pause = min(2.0 ** (progress.failures - 1) - 1, _LONGEST_PAUSE)
            when = f" in {pause:.0f} s" if pause else ""
            say(
                f"restart {progress.failures} of {self.restarts}{when}, "
                f"from {progress.describe()}"
            )
            if self.stop.wait(pause) or not progress.folder_is_lost():
                return True
            say(
                f"error: run folder {self.plan.run_dir} is gone, with its "
                "checkpoints; is its disk mounted?"
            )
            progress.failures += 1
        return False

    def _for_hosts_that_answer(
        self, plan: Plan, options: LaunchOptions
    ) -> tuple[Plan, LaunchOptions]:
        """The same plan, or one without the hosts that do not answer now."""
        if self.replan is None or not self.options.hosts or self.members is not None:
            return plan, options
        answers = hosts_that_answer(self.options)
        answer = answers.hosts
        for problem in answers.problems.values():
            say(f"warning: {problem}; going on without it")
        slots = sum(host.slots for host in answer)
        if not slots or answer == options.hosts:
            return plan, options  # let the attempt say what is wrong
        number = min(self.options.num_proc, slots)
        options = replace(self.options, hosts=answer, num_proc=number)
        say(f"{number} ranks on {', '.join(map(str, answer))}")
        return self.replan(options), options

    def _stopped_between(self, progress: Progress) -> int:
        """The end of a job that was asked to stop while no attempt was under way."""
        number = self.stop.numbers[0]
        progress.look()
        say(_stopped(number, progress.has_checkpoint))
        if number == signal.SIGINT:
            return 130
        return TEMPORARY_FAILURE if progress.has_checkpoint else 1


def _stopped(number: int, saved: bool) -> str:
    name = signal.Signals(number).name
    if saved:
        return f"stopped by {name}: a checkpoint is saved; the same command goes on"
    return f"stopped by {name}: nothing was saved"


def _tell(outcome: Outcome, plan: Plan, progress: Progress) -> None:
    """The failing rank's message first, then where the rest is to be found."""
    sys.stdout.flush()
    logs = f"; logs: {plan.run_dir / 'logs'}" if plan.run_dir else ""
    if outcome.finished:
        return
    if outcome.cause is not None:
        say(f"error: {outcome.cause.describe()}{logs}")
        if not outcome.cause.message:
            sys.stderr.buffer.write(b"".join(outcome.held[-40:]))
            sys.stderr.flush()
    elif outcome.frozen:
        say(f"error: the launcher of the ranks was stopped, and ended{logs}")
    elif outcome.stopped_by is None and not outcome.saved:
        say(f"error: the launcher ended with exit code {outcome.code}{logs}")
    if outcome.stopped_by is not None:
        saved = outcome.saved or progress.has_checkpoint
        say(_stopped(outcome.stopped_by, saved) + logs)


def say(line: str) -> None:
    """Tell people."""
    print(f"dathvd: {line}", file=sys.stderr, flush=True)
