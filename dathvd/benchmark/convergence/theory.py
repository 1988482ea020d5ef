"""Where the convergence theorem and the measurement agree, and where they part.

DAT (Zhang et al., UAI 2022) bounds the mean over T steps of E|grad F|², for step sizes
proportional to 1 / sqrt(T) and a smooth objective, by the order of 1 / sqrt(T), plus
terms of the inner maximisation's error, of the batch's variance, and of the codec's
error. A bound says what cannot be exceeded: falling faster is no contradiction.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from dathvd.benchmark.convergence.fit import Measured, over_seeds, rate, rate_over_seeds
from dathvd.benchmark.convergence.study import Curve
from dathvd.benchmark.convergence.variants import (
    BASE,
    BATCH,
    CODECS,
    INNER,
    OVERLAP,
    STEPS,
    Study,
)

RATE = 0.5
"""Of the theorem's first term."""
_SIGMA = 2.0
"""Standard errors beyond which a difference is said to be one."""


def horizon_rate(curves: Sequence[Curve]) -> Measured | None:
    """The rate over runs of different lengths, each with its own step size: the
    theorem's own. None for fewer than three lengths."""
    runs = sorted(
        (curve for curve in curves if curve.family in (BASE, STEPS)),
        key=lambda curve: curve.steps[-1],
    )
    lengths = [curve.steps[-1] for curve in runs]
    found = [
        rate(lengths, [curve.averages[seed][-1] for curve in runs])
        for seed in range(len(runs[0].seeds))
    ]
    return rate_over_seeds(found)


def sentences(
    curves: Sequence[Curve], study: Study, errors: dict[str, float]
) -> Iterator[str]:
    """One line for each family: what the theorem says, what was measured."""
    yield f"steps: {_of_rate(horizon_rate(curves))}"
    for family, says in (
        (CODECS, "the floor rises with the codec's error"),
        (INNER, "the floor falls with the attack's steps"),
        (BATCH, "the floor falls with the batch"),
        (OVERLAP, "nothing, as its gradients are of the present weights"),
    ):
        members = family_of(curves, family, study)
        if len(members) < 2:
            continue
        if family == OVERLAP:
            ordered = members
        elif family == CODECS:
            ordered = sorted(members, key=lambda member: errors[member[0]])
        else:  # the smallest floor first: most steps, the largest batch
            ordered = sorted(members, key=lambda member: -int(member[0]))
        verdict = _order(ordered, free=family == OVERLAP)
        yield f"{family}: the theorem says: {says}; measured: {verdict}"


def family_of(
    curves: Sequence[Curve], family: str, study: Study
) -> list[tuple[str, Curve]]:
    """What a family varies, with the base's value, and the curves."""
    own = [(curve.value, curve) for curve in curves if curve.family == family]
    base = next(curve for curve in curves if curve.family == BASE)
    return [(study.base_value(family), base), *own]


def _of_rate(found: Measured | None) -> str:
    says = f"the theorem says: step sizes of 1/sqrt(T) give T^-{RATE:g} or faster"
    if found is None:
        return f"{says}; measured: nothing, fewer than three lengths that fall"
    if found.value + _SIGMA * (found.error or 0.0) < RATE:
        verdict = "slower: as far as it goes here, they part"
    elif found.value - _SIGMA * (found.error or 0.0) > RATE:
        verdict = "faster, which the bound allows"
    else:
        verdict = "the same within its error"
    return f"{says}; measured: T^-({found}): {verdict}"


def _order(members: Sequence[tuple[str, Curve]], *, free: bool) -> str:
    """Whether the last halves are in that order, the smallest first."""
    shown = ", ".join(f"{name} {curve.late}" for name, curve in members)
    if len(members[0][1].seeds) < 2:
        return f"{shown}; one seed tells of no difference"
    pairs = [
        (one, other)
        for place, one in enumerate(members)
        for other in members[place + 1 :]
    ]
    against = [(a, b) for a, b in pairs if _difference(b[1], a[1])]
    for_it = [(a, b) for a, b in pairs if _difference(a[1], b[1])]
    if free:
        apart = "a difference" if against or for_it else "no difference"
        return f"{shown}; {apart} beyond {_SIGMA:g} errors"
    if against:
        parts = ", ".join(f"{a[0]} above {b[0]}" for a, b in against)
        return f"{shown}; they part: {parts}"
    if not for_it:
        return f"{shown}; no difference beyond {_SIGMA:g} errors"
    told = f"{len(for_it)} of {len(pairs)} pairs are told apart"
    return f"{shown}; {told}, all in that order"


def _difference(low: Curve, high: Curve) -> bool:
    """Whether one's last half is below the other's, in seeds taken in pairs."""
    apart = [b - a for a, b in zip(low.late_values, high.late_values, strict=True)]
    error = over_seeds(apart).error
    assert error is not None, "one seed tells of no difference"
    return min(apart) > 0 and statistics.fmean(apart) > _SIGMA * error
