"""Which pairs of values are refused, and the rows in which all others meet."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from dathvd.compression.registry import build_compressor
from dathvd.distributed.exchange_choice import choose_exchange
from dathvd.distributed.placement import Placement
from dathvd.errors import UserError
from tests.parallel.crossings.covering import (
    Group,
    Place,
    Row,
    all_groups,
    cover,
    pairs_of,
)
from tests.parallel.crossings.features import configure, features

ONE_NODE = Placement(0, ((0, 1),))
"""Where the ranks of all rows are."""
TRIPLES = (("overlap", "guard", "life"),)
"""Three features whose values all meet, too: going back uses what the others left."""


@dataclass(frozen=True)
class Table:
    """All pairs of values of two features."""

    works: frozenset[Group]
    """The pairs that no configuration rule is against."""
    refusals: dict[Group, list[str]]
    """The others, with what is said of them whatever else is chosen."""
    rows: tuple[Row, ...]
    """Every pair of ``works`` is in one of them, and where both values allow it in one
    whose update is the same for any number of workers."""


def refusal(row: Row) -> str | None:
    """What is said against a row's values; None where they are taken."""
    try:
        compression = configure(row).compression
        if "exchange" in row:
            codec = build_compressor(compression)
            choose_exchange(codec, compression.exchange, ONE_NODE)
    except UserError as error:
        return str(error)
    return None


def refusals(pair: Group) -> list[str]:
    """What is said against two values with the defaults, and with each other value of
    one more feature; empty if one such row is taken."""
    row, said = dict(pair), []
    more = [
        {feature: name}
        for feature, values in features().items()
        for name in values
        if feature not in row
    ]
    for change in [{}, *more]:
        problem = refusal({**row, **change})
        if problem is None:
            return []
        said.append(problem)
    return list(dict.fromkeys(said))


NEVER_THE_SAME: tuple[dict[str, tuple[str, ...]], ...] = (
    # each worker normalises by its own samples, or each pass by its own
    {"network": ("batch norm",), "batch norm": ("averaged", "local")},
    {"network": ("batch norm",), "mode": ("train",)},
    {"network": ("batch norm",), "passes": ("2",)},
    # where a network is sure of clean images, as these objectives make it, a loss that
    # is measured from its answers to them has a gradient of rounding errors alone
    {"loss": ("kl", "squared"), "objective": ("trades", "mart", "score", "ikl", "hat")},
    # other workers attack anew what was attacked before the stop
    {"overlap": ("attack",), "life": ("1+2", "2+1")},
)
"""Values with which the update depends on how workers and passes share a batch."""


def depends_on_workers(row: Row) -> bool:
    """Whether the update is another one where the batch is shared otherwise."""
    table = features()
    if not all(table[f][name].same_for_any_workers for f, name in row.items()):
        return True
    return any(
        all(row.get(feature) in names for feature, names in each.items())
        for each in NEVER_THE_SAME
    )


def plainest(row: Row) -> Row:
    """The row whose result this one must have: one worker that never stops, and takes
    each batch whole."""
    alone = {"life": "1", "codec": "none", "exchange": "allreduce", "passes": "1"}
    return {**row, **alone}


@functools.cache
def make_table() -> Table:
    """Found by asking the configuration, nothing is run."""
    table = features()
    names = {feature: list(values) for feature, values in table.items()}
    together = list(itertools.combinations(names, 2))
    pairs = all_groups(names, together)
    refused = {pair: said for pair in pairs if (said := refusals(pair))}

    def is_refused(one: Place, other: Place) -> bool:
        return frozenset((one, other)) in refused

    @functools.cache
    def or_depends(one: Place, other: Place) -> bool:
        return is_refused(one, other) or depends_on_workers(dict((one, other)))

    same = {
        feature: [name for name, value in values.items() if value.same_for_any_workers]
        for feature, values in table.items()
    }
    exact = cover(same, all_groups(same, [*TRIPLES, *together]), or_depends)
    met = set[Group]().union(*map(pairs_of, exact))
    others = cover(names, [pair for pair in pairs if pair not in met], is_refused)
    return Table(frozenset(pairs) - refused.keys(), refused, (*exact, *others))
