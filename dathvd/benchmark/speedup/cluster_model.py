"""A cluster as a formula: step time over workers, by codec, exchange and overlap.

A collective of N workers takes ``latency * rounds(N) + bytes(N) / bandwidth`` seconds
(Hockney's model, Parallel Computing 20, 1994; the counts of rounds and bytes of ring
collectives are those of Thakur, Rabenseifner and Gropp, IJHPCA 19, 2005). A step is

    compute(N) + codec(N) + max(0, communication(N) - hidden)

where the attack hides communication when ``overlap`` is ``attack``. The model knows no
stragglers, no contention between switches and no change of algorithm: what it says
beyond the measured points is a prediction, never a measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dathvd.benchmark.speedup.rows import SweepRow
from dathvd.compression.base import HIERARCHICAL

Vector = NDArray[np.float64]


def rounds(collective: str, num_workers: int) -> int:
    """Messages that follow one another in one ring collective."""
    steps = num_workers - 1
    return 2 * steps if collective == "allreduce" else steps


def bytes_factor(collective: str, exchange: str, num_workers: int) -> float:
    """How the bytes that one worker sends grow with the number of workers.

    A worker sends 2(N-1)/N of an allreduced tensor, (N-1)/N of the payload in either
    half of a two-way exchange, and its whole payload to N-1 others in an allgather.
    """
    if collective == "allgather" and exchange == "allgather":
        return float(num_workers - 1)
    return (num_workers - 1) / num_workers


@dataclass(frozen=True)
class Link:
    """The latency and bandwidths that the fit finds.

    Args:
        latency: seconds a round.
        seconds_per_byte: the reciprocal of the bandwidth that each exchange attains.
    """

    latency: float
    seconds_per_byte: dict[str, float]

    def communication_seconds(self, row: SweepRow, num_workers: int) -> float:
        """Seconds of communication of one step by the row's codec and exchange."""
        count, sent = traffic(row, num_workers)
        return self.latency * count + self.seconds_per_byte[row.exchange] * sent


def traffic(row: SweepRow, num_workers: int) -> tuple[float, float]:
    """Rounds and bytes of one worker in one step, scaled from the measured row's."""
    count, sent = 0.0, 0.0
    for collective, (calls, measured) in row.traffic.items():
        unit = measured / bytes_factor(collective, row.exchange, row.num_workers)
        count += calls * rounds(collective, num_workers)
        sent += unit * bytes_factor(collective, row.exchange, num_workers)
    return count, sent


@dataclass(frozen=True)
class ClusterModel:
    """A link and the measured steps; predicts steps for any number of workers.

    Args:
        link: latency and bandwidths.
        templates: by (codec, exchange, overlap), the row predictions start from: the
            one with the most workers.
        compute: the compute seconds of each measured number of workers.
        shared_workers: how many workers run side by side without slowing one another,
            where all hosts share one machine (its cores over the threads of a worker);
            None on a cluster, whose hosts do not slow one another.
    """

    link: Link
    templates: dict[tuple[str, str, str], SweepRow]
    compute: dict[int, float]
    shared_workers: int | None = None

    @classmethod
    def fit(
        cls, rows: Iterable[SweepRow], *, shared_workers: int | None = None
    ) -> ClusterModel:
        """Fit by non-negative least squares on relative errors of the step.

        Args:
            rows: measurements, two or more of them with two or more workers.
            shared_workers: see the class.

        Raises:
            ValueError: nothing was exchanged in any row.
        """
        measured = sorted(rows, key=lambda row: row.num_workers)
        exchanged = [row for row in measured if is_told(row)]
        if not exchanged:
            raise ValueError("the model needs rows with two or more workers")
        compute = {row.num_workers: row.compute_seconds for row in measured}
        templates = {key_of(row): row for row in exchanged}
        return cls(_fit_link(exchanged), templates, compute, shared_workers)

    def compute_seconds(self, num_workers: int) -> float:
        """A step without communication: measured, or as at the nearest point."""
        if num_workers in self.compute:
            return self.compute[num_workers]
        nearest = min(self.compute, key=lambda n: (abs(n - num_workers), n))
        return self.compute[nearest] * self._slowdown(nearest, num_workers)

    def _slowdown(self, measured: int, num_workers: int) -> float:
        """The factor by which compute with ``num_workers`` is slower than measured.

        It differs from 1 where the workers share one machine and outnumber those that
        it runs side by side.
        """
        if num_workers in self.compute:
            return self.compute[num_workers] / self.compute[measured]
        if self.shared_workers is None:
            return 1.0
        crowding = [max(1.0, n / self.shared_workers) for n in (measured, num_workers)]
        return crowding[1] / crowding[0]

    def predict(
        self, codec: str, exchange: str, overlap: str, num_workers: int
    ) -> float:
        """Seconds of a step.

        Raises:
            KeyError: that codec, exchange and overlap mode was not measured.
        """
        row = self.templates[codec, exchange, overlap]
        slowdown = self._slowdown(row.num_workers, num_workers)
        codec_seconds = max(0.0, _busy_seconds(row) - row.compute_seconds) * slowdown
        hidden = row.attack_seconds * slowdown if overlap == "attack" else 0.0
        communication = self.link.communication_seconds(row, num_workers)
        exposed = max(0.0, communication - hidden)
        return self.compute_seconds(num_workers) + codec_seconds + exposed


def is_told(row: SweepRow) -> bool:
    """Whether the model can tell a row: something travels, over links of one kind.

    Inside and between nodes, a hierarchical exchange has two.
    """
    sends = bool(row.traffic) and row.num_workers > 1
    return sends and row.exchange != HIERARCHICAL


def key_of(row: SweepRow) -> tuple[str, str, str]:
    """The (codec, exchange, overlap) that rows of several numbers of workers share."""
    return row.codec, row.exchange, row.overlap


def _busy_seconds(row: SweepRow) -> float:
    return row.step_seconds - row.exposed_seconds


def _fit_link(rows: Sequence[SweepRow]) -> Link:
    exchanges = sorted({row.exchange for row in rows})
    # an overlapped step tells how much is left over, not how long the exchange took
    shown = [row for row in rows if row.overlap == "none"]
    design = np.zeros((len(shown), 1 + len(exchanges)))
    target = np.zeros(len(shown))
    for index, row in enumerate(shown):
        count, sent = traffic(row, row.num_workers)
        design[index, 0] = count
        design[index, 1 + exchanges.index(row.exchange)] = sent
        target[index] = row.exposed_seconds
        design[index] /= row.step_seconds
        target[index] /= row.step_seconds
    found = non_negative_least_squares(design, target)
    return Link(
        float(found[0]), dict(zip(exchanges, map(float, found[1:]), strict=True))
    )


def non_negative_least_squares(design: Vector, target: Vector) -> Vector:
    """The x >= 0 that minimises the norm of ``design @ x - target``.

    Lawson and Hanson's active-set method (Solving Least Squares Problems, 1974,
    algorithm NNLS).

    Args:
        design: ``[equations, unknowns]``.
        target: ``[equations]``.
    """
    unit = np.linalg.norm(design, axis=0)
    unit[unit == 0] = 1.0
    scaled = design / unit  # rounds and bytes differ by many orders of magnitude
    found = np.zeros(design.shape[1])
    free = np.zeros(design.shape[1], dtype=bool)
    tolerance = 1e-12 * (1.0 + float(np.linalg.norm(target)))
    for _ in range(3 * design.shape[1] + 3):
        gradient = scaled.T @ (target - scaled @ found)
        if free.all() or gradient[~free].max() <= tolerance:
            break
        free[np.argmax(np.where(free, -np.inf, gradient))] = True
        found = _step_inside(scaled, target, found, free)
    solution: Vector = found / unit
    return solution


def _step_inside(
    design: Vector, target: Vector, found: Vector, free: NDArray[np.bool_]
) -> Vector:
    """NNLS's inner loop: least squares on the free unknowns, kept non-negative."""
    while True:
        aim = np.zeros_like(found)
        aim[free] = np.linalg.lstsq(design[:, free], target, rcond=None)[0]
        leaving = free & (aim <= 0)
        if not leaving.any():
            return aim
        share = np.min(found[leaving] / (found[leaving] - aim[leaving] + 1e-300))
        found = found + share * (aim - found)
        free &= ~(leaving & (found <= 1e-15))
        found[~free] = 0.0


@dataclass(frozen=True)
class Prediction:
    """One point that was not measured."""

    codec: str
    exchange: str
    overlap: str
    num_workers: int
    step_seconds: float
    efficiency: float
    """Speed-up over one worker, divided by the number of workers."""


@dataclass(frozen=True)
class HeldOut:
    """A prediction of a measured point that the fit had not seen."""

    row: SweepRow
    predicted_seconds: float

    @property
    def error(self) -> float:
        """The relative error, positive where the prediction is too slow."""
        return self.predicted_seconds / self.row.step_seconds - 1


def held_out_errors(
    rows: Sequence[SweepRow], *, shared_workers: int | None = None
) -> list[HeldOut]:
    """Predict the points with the most workers from those with fewer.

    What those workers take without any communication is given: it is measured beside
    every point, and the prediction is of what communication adds to it.

    Returns:
        One entry a point; empty where no number of workers but the largest exchanged
        anything.
    """
    largest = max((row.num_workers for row in rows), default=0)
    fewer = [row for row in rows if row.num_workers < largest]
    if not any(map(is_told, fewer)):
        return []
    model = ClusterModel.fit(fewer, shared_workers=shared_workers)
    own = [row for row in rows if row.num_workers == largest]
    model.compute[largest] = own[0].compute_seconds
    return [
        HeldOut(row, model.predict(*key_of(row), largest))
        for row in own
        if key_of(row) in model.templates
    ]


def predictions(model: ClusterModel, sizes: Sequence[int]) -> list[Prediction]:
    """The model's steps for each of the measured codecs, exchanges and overlap modes.

    Fit it on points that are not oversubscribed: hosts of a cluster have their cores to
    themselves.
    """
    one = min(model.compute)
    found = []
    for codec, exchange, overlap in sorted(model.templates):
        for size in sizes:
            seconds = model.predict(codec, exchange, overlap, size)
            efficiency = model.compute[one] / seconds
            found.append(
                Prediction(codec, exchange, overlap, size, seconds, efficiency)
            )
    return found
