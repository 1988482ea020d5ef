"""The variants of the study: one thing at a time is changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dathvd.attacks.build import FAST_STEP
from dathvd.benchmark.accuracy.comparison import Variant
from dathvd.config import Config
from dathvd.config.attack import REACH

BASE = "base"
STEPS, CODECS, OVERLAP = "steps", "codec", "overlap"
INNER, BATCH, OTHERS = "inner steps", "batch size", "other"


@dataclass(frozen=True)
class Changed:
    """One variant, in the family of what it changes."""

    family: str
    value: str
    """Of what the family is named by."""
    steps: int
    """Steps that are looked at."""
    variant: Variant


@dataclass(frozen=True)
class Study:
    """What is compared with the base, which the configuration says."""

    config: Config
    num_images: int
    """Of an epoch."""
    steps: int
    codecs: Sequence[str]
    overlaps: Sequence[str]
    inner_steps: Sequence[str]
    batch_sizes: Sequence[str]
    horizons: Sequence[int]
    """Numbers of steps below ``steps``."""
    others: Sequence[Variant] = ()
    """Of which the theorem says nothing."""

    def variants(self) -> list[Changed]:
        """The base, then everything that differs from it, by families."""
        config = self.config
        found = [self._variant(BASE, "", ())]
        for steps in self.horizons:
            # the theorem's step size is proportional to 1 / sqrt(steps)
            rate = config.optimizer.lr * math.sqrt(self.steps / steps)
            change = f"optimizer.lr={rate:.6g}"
            found.append(self._variant(STEPS, str(steps), (change,), steps))
        for codec in _without(config.compression.name, self.codecs):
            change = f"compression.name={codec}"
            found.append(self._variant(CODECS, codec, (change,)))
        for overlap in _without(config.train.overlap, self.overlaps):
            change = f"train.overlap={overlap}"
            found.append(self._variant(OVERLAP, overlap, (change,)))
        for count in _without(str(config.attack.num_steps), self.inner_steps):
            length = min(REACH / int(count), FAST_STEP) * config.attack.epsilon
            changes = (f"attack.num_steps={count}", f"attack.step_size={length:.6g}")
            found.append(self._variant(INNER, count, changes))
        for size in _without(str(config.train.batch_size), self.batch_sizes):
            found.append(self._variant(BATCH, size, (), batch_size=int(size)))
        for own in self.others:
            found.append(self._variant(OTHERS, own.name, own.settings))
        return found

    def base_value(self, family: str) -> str:
        """What the base has where the family changes something."""
        return {
            STEPS: str(self.steps),
            CODECS: self.config.compression.name,
            OVERLAP: self.config.train.overlap,
            INNER: str(self.config.attack.num_steps),
            BATCH: str(self.config.train.batch_size),
        }[family]

    def _variant(
        self,
        family: str,
        value: str,
        changes: tuple[str, ...],
        steps: int | None = None,
        batch_size: int | None = None,
    ) -> Changed:
        size = batch_size or self.config.train.batch_size
        steps = steps or self.steps
        epochs = -(-steps // -(-self.num_images // size))
        settings = (*changes, f"train.epochs={epochs}", f"train.batch_size={size}")
        name = f"{family}-{value}".replace(" ", "-").strip("-")
        return Changed(family, value, steps, Variant(name, settings))


def _without(base: str, values: Sequence[str]) -> list[str]:
    return [value for value in values if value != base]
