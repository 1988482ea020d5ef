"""Which hosts a job that may grow and shrink runs on, and when it should change."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dathvd.errors import UserError
from dathvd.launch.hosts import Host, parse_hosts
from dathvd.launch.options import LaunchOptions
from dathvd.launch.reach import Answers, hosts_that_answer

_WINDOW = 600.0
"""Seconds within which a second failure has a host left out, and for how long."""
_POLL = 2.0
"""Seconds between two looks at the list of hosts."""
_PATIENCE = 30.0
"""Seconds that a discovery script may take."""


@dataclass
class Probation:
    """Leaves out hosts that fail again and again, and lets them come back."""

    now: Callable[[], float] = time.monotonic
    _failures: dict[str, list[float]] = field(default_factory=dict)

    def failed(self, host: str) -> None:
        """Note a failure of a host."""
        self._failures.setdefault(host, []).append(self.now())

    def holds(self, host: str) -> bool:
        """Whether it failed twice in ten minutes, less than ten minutes ago."""
        times = self._failures.get(host, [])[-2:]
        recent = bool(times) and self.now() - times[-1] < _WINDOW
        return recent and len(times) == 2 and times[1] - times[0] < _WINDOW


@dataclass
class Membership:
    """The hosts of a job between a least and a greatest number of ranks.

    Args:
        least: ranks below which it waits for hosts.
        most: ranks that it takes at most.
        find: lists the hosts as they are now.
        answering: those of some options' hosts that can be used, and what is wrong with
            the others.
        say: tells people.
    """

    least: int
    most: int
    find: Callable[[], tuple[Host, ...]]
    say: Callable[[str], None]
    answering: Callable[[LaunchOptions], Answers] = hosts_that_answer
    probation: Probation = field(default_factory=Probation)
    _suspect: str | None = field(default=None, init=False)
    _used: tuple[Host, ...] = field(default=(), init=False)

    def suspect(self, host: str) -> None:
        """Note the host of the rank by which an attempt failed.

        It counts as the one that failed unless another one of that attempt turns out
        not to answer: where a link is lost, both its ends report.
        """
        self._suspect = host

    def choose(self, options: LaunchOptions) -> LaunchOptions | None:
        """The options for the hosts that serve now; None where they are too few."""
        try:
            listed = self.find()
        except UserError as error:
            self.say(f"warning: {error}")
            return None
        good = tuple(h for h in listed if not self.probation.holds(h.name))
        # without it there would be too few: better one that failed than none
        used = good if _slots(good) >= self.least else listed
        if not used:
            return None
        asked = replace(options, hosts=used, num_proc=1)
        answers = self.answering(asked)
        for problem in answers.problems.values():
            self.say(f"warning: {problem}; going on without it")
        self._blame(answers)
        hosts = tuple(h for h in answers.hosts if not self.probation.holds(h.name))
        hosts = hosts if _slots(hosts) >= self.least else answers.hosts
        number = min(self.most, _slots(hosts))
        if number < self.least:
            return None
        self._used = hosts
        network = options.network_interface or answers.interface
        return replace(options, hosts=hosts, num_proc=number, network_interface=network)

    def _blame(self, answers: Answers) -> None:
        """Note whose failure ended the attempt before, if any did."""
        suspect, self._suspect = self._suspect, None
        if suspect is not None:
            silent = [h.name for h in self._used if h.name in answers.problems]
            for name in silent or [answers.names.get(suspect, suspect)]:
                self.probation.failed(name)

    def wait(
        self, options: LaunchOptions, stopped: Callable[[float], bool]
    ) -> LaunchOptions | None:
        """The same, as soon as there are enough; None where the job is to stop.

        Args:
            options: of the job.
            stopped: sleeps so many seconds; whether the job is to stop.
        """
        told = False
        while (chosen := self.choose(options)) is None:
            if not told:
                self.say(f"waiting for hosts with at least {self.least} slots")
                told = True
            if stopped(_POLL):
                return None
        return chosen

    def should_change(self, current: LaunchOptions) -> bool:
        """Whether a host in use has gone, or others would let more ranks work."""
        try:
            listed = self.find()
        except UserError:
            return False  # it says so when the next attempt begins
        slots = {host.name: host.slots for host in listed}
        if any(slots.get(host.name, 0) < host.slots for host in current.hosts):
            return True
        good = [h for h in listed if not self.probation.holds(h.name)]
        if min(self.most, _slots(tuple(good))) <= current.num_proc:
            return False
        used = {(host.name, host.slots) for host in current.hosts}
        new = tuple(h for h in good if (h.name, h.slots) not in used)
        asked = replace(current, hosts=new, num_proc=1)
        return not new or bool(self.answering(asked).hosts)


class Watcher:
    """Looks for a change of hosts while an attempt is under way; a context manager."""

    def __init__(self, membership: Membership, current: LaunchOptions) -> None:
        self._membership, self._current = membership, current
        self._over = threading.Event()
        self._change = threading.Event()

    def changed(self) -> bool:
        """Whether the attempt should make way for one on other hosts."""
        return self._change.is_set()

    def __enter__(self) -> Watcher:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(_POLL):
            if self._membership.should_change(self._current):
                self._change.set()
                return


def discover(script: str) -> tuple[Host, ...]:
    """The hosts that a program prints, a line each: ``a:2``, ``a slots=2`` or ``a``.

    Raises:
        UserError: it cannot be run, fails, or prints something else.
    """
    try:
        done = subprocess.run(
            [script], capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"--host-discovery {script}: {error}") from None
    if done.returncode:
        raise UserError(f"--host-discovery {script}: exit code {done.returncode}")
    lines = [line.partition("#")[0].split() for line in done.stdout.splitlines()]
    words = [
        words[0] + "".join(f":{w[6:]}" for w in words[1:] if w.startswith("slots="))
        for words in lines
        if words
    ]
    return parse_hosts(",".join(words)) if words else ()


def _slots(hosts: tuple[Host, ...]) -> int:
    return sum(host.slots for host in hosts)
