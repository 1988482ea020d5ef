"""Few rows in which every pair of values of two features occurs together.

A greedy covering array (Cohen, Dalal, Fredman and Patton, The AETG System, IEEE
Transactions on Software Engineering, 1997): each row starts from values that have not
met yet, and takes for every other feature the value that meets the most new ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

Place = tuple[str, str]
"""A feature and the name of one of its values."""
Group = frozenset[Place]
"""Values of different features."""
Row = dict[str, str]


def groups_of(row: Mapping[str, str], together: Iterable[Sequence[str]]) -> set[Group]:
    """The values of a row at those features, for each of the combinations."""
    return {
        frozenset((feature, row[feature]) for feature in features)
        for features in together
        if all(feature in row for feature in features)
    }


def pairs_of(row: Mapping[str, str]) -> set[Group]:
    """Every two values of a row."""
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def all_groups(
    values: Mapping[str, Sequence[str]], together: Iterable[Sequence[str]]
) -> list[Group]:
    """Every choice of values at those features, for each of the combinations."""
    return [
        frozenset(zip(features, chosen, strict=True))
        for features in together
        for chosen in itertools.product(*(values[feature] for feature in features))
    ]


def cover(
    values: Mapping[str, Sequence[str]],
    targets: Iterable[Group],
    is_refused: Callable[[Place, Place], bool],
    seed: int = 0,
    tries: int = 20,
) -> list[Row]:
    """Rows without refused pairs in which all targets that can occur do.

    Args:
        values: the names of each feature's values.
        targets: what is to occur.
        is_refused: whether two values cannot be together.
        seed: of the order in which features are filled.
        tries: orders that are tried for each row; the one that meets most is taken.
    """
    left = dict.fromkeys(targets)
    generator, rows = random.Random(seed), []
    while left:
        start = next(iter(left))
        found = [
            row
            for _ in range(tries)
            if (row := _fill(values, start, left, is_refused, generator)) is not None
        ]
        if not found:
            del left[start]  # it cannot occur
            continue
        row = max(found, key=lambda row: len(_met(row, left)))
        for group in _met(row, left):
            del left[group]
        rows.append({feature: row[feature] for feature in values})
    return rows


def _met(row: Row, left: Mapping[Group, None]) -> list[Group]:
    places = set(row.items())
    return [group for group in left if group <= places]


def _fill(
    values: Mapping[str, Sequence[str]],
    start: Group,
    left: Mapping[Group, None],
    is_refused: Callable[[Place, Place], bool],
    generator: random.Random,
) -> Row | None:
    """A whole row around some values; None where this order leads nowhere."""
    row = dict(start)
    if any(is_refused(*pair) for pair in itertools.combinations(row.items(), 2)):
        return None
    order = [feature for feature in values if feature not in row]
    generator.shuffle(order)
    for feature in order:
        fits = [
            name
            for name in values[feature]
            if not any(is_refused((feature, name), place) for place in row.items())
        ]
        if not fits:
            return None
        generator.shuffle(fits)
        row[feature] = max(fits, key=lambda name: _gain((feature, name), row, left))
    return row


def _gain(place: Place, row: Row, left: Mapping[Group, None]) -> int:
    """How many pairs with that value would be new."""
    return sum(frozenset({place, other}) in left for other in row.items())
