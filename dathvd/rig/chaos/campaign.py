"""Many rounds: their faults from a seed, several at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dathvd.rig.chaos.faults import FAULTS
from dathvd.rig.chaos.job import Job
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
    """

    seed: int
    faults: Sequence[str]
    folder: Path
    sizes: Sequence[int] = (2, 3)
    _known: dict[int, Reference] = field(default_factory=dict, init=False)

    def run(
        self, rounds: int, jobs: int, tell: Callable[[Verdict], None]
    ) -> list[Verdict]:
        """Play rounds 0 to ``rounds - 1`` and return their verdicts in order.

        Args:
            rounds: how many.
            jobs: how many at a time.
            tell: is called after each round.
        """
        plans = [self.plan(number) for number in range(rounds)]
        # what an elastic job ends with is held against its own replay
        compared = {size for fault, size, _ in plans if not FAULTS[fault].elastic}
        for size in sorted(compared):
            self._known[size] = self._reference(size)

        def one(number: int) -> Verdict:
            verdict = self._round(number, *plans[number])
            tell(verdict)
            return verdict

        with ThreadPoolExecutor(max_workers=jobs) as pool:
            return list(pool.map(one, range(rounds)))

    def plan(self, number: int) -> tuple[str, int, Random]:
        """A round's fault, number of ranks, and what decides the rest."""
        random = Random(f"{self.seed}/{number}")
        return random.choice(self.faults), random.choice(self.sizes), random

    def _reference(self, size: int) -> Reference:
        folder = self.folder / f"undisturbed-{size}"
        folder.mkdir(parents=True)
        return reference_of(Job(folder, size, OPTIONS, {}), _LIMIT)

    def _round(self, number: int, fault: str, size: int, random: Random) -> Verdict:
        folder = self.folder / f"round-{number:04d}"
        folder.mkdir(parents=True)
        known = self._known.get(size, Reference({}, _USUAL, _USUAL))
        verdict = play(number, fault, size, random, folder, known)
        if not verdict.problems:
            shutil.rmtree(folder, ignore_errors=True)
        return verdict
