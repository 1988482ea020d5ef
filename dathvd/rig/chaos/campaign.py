"""Many rounds: their faults from a seed, several at a time."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dathvd.rig.chaos.faults import FAULTS
from dathvd.rig.chaos.job import Job, Stopped
from dathvd.rig.chaos.rounds import OPTIONS, Reference, Verdict, play, reference_of

_LIMIT = 600.0  # seconds for an undisturbed run
_USUAL = 15.0  # seconds that it takes on a busy machine


@dataclass
class Campaign:
    """Rounds of faults.

    Args:
        seed: decides faults, sizes, moments and victims.
        faults: names to draw from.
        folder: where the jobs work; those of rounds with a problem are kept.
        sizes: numbers of ranks to draw from.
        asked: whether to stop.
        undisturbed: how a job of so many ranks ends undisturbed, as far as that is
            known; what is found out is added.
    """

    seed: int
    faults: Sequence[str]
    folder: Path
    sizes: Sequence[int] = (2, 3)
    asked: Callable[[], object] = lambda: False
    undisturbed: dict[int, Reference] = field(default_factory=dict)
    _telling: threading.Lock = field(default_factory=threading.Lock, init=False)

    def run(
        self, numbers: Sequence[int], jobs: int, tell: Callable[[Verdict], None]
    ) -> None:
        """Play the rounds of these numbers, or as many as there is time for.

        Once it is asked to stop it ends the jobs of the rounds that are being played,
        and leaves nothing of them.

        Args:
            numbers: of the rounds, from 0 on.
            jobs: how many at a time.
            tell: is called after each round, for one at a time.
        """
        try:
            self._run(numbers, jobs, tell)
        except Stopped:
            return

    def _run(
        self, numbers: Sequence[int], jobs: int, tell: Callable[[Verdict], None]
    ) -> None:
        plans = {number: self.plan(number) for number in numbers}
        # what an elastic job ends with is held against its own replay
        played = plans.values()
        compared = {size for fault, size, _ in played if not FAULTS[fault].elastic}
        for size in sorted(compared - {*self.undisturbed}):
            self.undisturbed[size] = self._reference(size)

        def one(number: int) -> None:
            verdict = self._round(number, *plans[number])
            with self._telling:
                tell(verdict)

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            for _ in pool.map(one, numbers):
                pass

    def plan(self, number: int) -> tuple[str, int, Random]:
        """A round's fault, number of ranks, and what decides the rest."""
        random = Random(f"{self.seed}/{number}")
        fault, size = random.choice(self.faults), random.choice(self.sizes)
        return fault, max(size, FAULTS[fault].least), random

    def _reference(self, size: int) -> Reference:
        folder = self._empty_folder(f"undisturbed-{size}")
        job = Job(folder, size, OPTIONS, {}, asked=self.asked)
        return reference_of(job, _LIMIT)

    def _round(self, number: int, fault: str, size: int, random: Random) -> Verdict:
        """Play one round.

        Raises:
            Stopped: it was asked to stop.
        """
        if self.asked():
            raise Stopped
        folder = self._empty_folder(f"round-{number:04d}")
        known = self.undisturbed.get(size, Reference({}, _USUAL, _USUAL))
        try:
            verdict = play(number, fault, size, random, folder, known, self.asked)
        except Exception as error:
            if self.asked():  # Ctrl-C reaches the programs that make hosts, too
                shutil.rmtree(folder, ignore_errors=True)
                raise Stopped from error
            # the rounds that are left to play are worth more than this one
            problem = f"not played: {type(error).__name__}: {error}"
            verdict = Verdict(number, fault, size, "no moment", problems=[problem])
        if not verdict.problems:
            shutil.rmtree(folder, ignore_errors=True)
        return verdict

    def _empty_folder(self, name: str) -> Path:
        """A folder of that name; one that a campaign was killed in is removed."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder
