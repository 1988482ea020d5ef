"""Which ranks share a node, as local ranks, cross ranks and host names tell it."""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import horovod.torch as hvd
import torch

from dathvd.errors import UserError
from dathvd.runtime import PROCESS_SETS


class Place(NamedTuple):
    """What one rank knows of its place."""

    local_rank: int
    cross_rank: int
    local_size: int
    host: int
    """A number of the host's name."""


@dataclass(frozen=True)
class Placement:
    """The nodes' ranks, and where this rank is among them."""

    rank: int
    nodes: tuple[tuple[int, ...], ...]
    """The ranks of each node, in ascending order."""

    @classmethod
    def here(cls) -> Placement:
        """This launch's. A collective.

        Raises:
            UserError: they do not describe nodes; on all ranks.
        """
        return cls(hvd.rank(), nodes_of(everyones_places()))

    @property
    def size(self) -> int:
        """The number of ranks."""
        return sum(map(len, self.nodes))

    @property
    def node(self) -> int:
        """The place of this rank's node among the nodes."""
        return next(i for i, ranks in enumerate(self.nodes) if self.rank in ranks)

    @property
    def local_rank(self) -> int:
        """The place of this rank among its node's."""
        return self.nodes[self.node].index(self.rank)

    @property
    def fewest(self) -> int:
        """The ranks of the node with the fewest."""
        return min(map(len, self.nodes))

    @property
    def is_shared(self) -> bool:
        """Whether any node has several ranks."""
        return max(map(len, self.nodes)) > 1

    def describe(self) -> str:
        """Such as ``2 nodes of 8 ranks`` or ``2 nodes of 3 and 2 ranks``."""
        counts = sorted(set(map(len, self.nodes)), reverse=True)
        nodes = "1 node" if len(self.nodes) == 1 else f"{len(self.nodes)} nodes"
        noun = "rank" if counts == [1] else "ranks"
        return f"{nodes} of {' and '.join(map(str, counts))} {noun}"


def can_form_sets() -> bool:
    """Whether Horovod was started so that ranks may form process sets."""
    return os.environ.get(PROCESS_SETS) == "1"


def everyones_places() -> list[Place]:
    """Every rank's place, by rank. A collective."""
    host = zlib.crc32(socket.gethostname().encode())
    own = torch.tensor(
        [[hvd.local_rank(), hvd.cross_rank(), hvd.local_size(), host]],
        dtype=torch.int64,
    )
    if hvd.size() > 1:
        own = hvd.allgather(own, name="dathvd.places")
    return [Place(*map(int, row)) for row in own]


def nodes_of(places: Sequence[Place]) -> tuple[tuple[int, ...], ...]:
    """The nodes' ranks, from every rank's place.

    Ranks of one host name are a node where their local ranks say so too. Where host
    names do not tell nodes apart (containers may share one), cross ranks do, which
    count, in the order of ranks, the nodes that have a local rank.

    Raises:
        UserError: the places are not those of ranks on nodes.
    """
    for find in (_by_host, _by_cross_rank):
        nodes = find(places)
        if all(_is_node([places[rank] for rank in ranks]) for ranks in nodes):
            return tuple(sorted(map(tuple, nodes)))
    raise UserError(
        "compression.exchange: local and cross ranks of "
        f"{[(p.local_rank, p.cross_rank, p.local_size) for p in places[:16]]} describe "
        "no nodes; start ranks by horovodrun or mpirun"
    )


def _is_node(places: Sequence[Place]) -> bool:
    """Whether the ranks are all of one node: numbered, and as many as each says."""
    numbered = sorted(place.local_rank for place in places) == list(range(len(places)))
    return numbered and all(place.local_size == len(places) for place in places)


def _by_host(places: Sequence[Place]) -> list[list[int]]:
    nodes: dict[int, list[int]] = {}
    for rank, place in enumerate(places):
        nodes.setdefault(place.host, []).append(rank)
    return list(nodes.values())


def _by_cross_rank(places: Sequence[Place]) -> list[list[int]]:
    leaders = [place for place in places if place.local_rank == 0]
    sizes = [p.local_size for p in sorted(leaders, key=lambda p: p.cross_rank)]
    nodes: dict[int, list[int]] = {}
    for rank, place in enumerate(places):
        having = [n for n, size in enumerate(sizes) if size > place.local_rank]
        known = 0 <= place.cross_rank < len(having)
        nodes.setdefault(having[place.cross_rank] if known else -1, []).append(rank)
    return list(nodes.values())
