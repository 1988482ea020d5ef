"""Tensors dealt out to ranks are all written once, and come back in place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dathvd import dealing

TREE: dict[str, Any] = {
    "state": {
        place: {"step": torch.tensor(3.0), "average": torch.randn(size, 5)}
        for place, size in enumerate((1, 400, 30, 30, 200))
    },
    "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0, 1, 2, 3, 4]}],
}


@pytest.mark.parametrize("ranks", [[0], [0, 1], [0, 2, 5]])
def test_what_is_dealt_is_gathered_again(ranks: list[int]) -> None:
    owners = dealing.deal(TREE, 0, ranks)
    home = dealing.kept(TREE, owners, 0)
    parts = {rank: dealing.own(TREE, owners, rank) for rank in ranks[1:]}
    assert dealing.files(home) == [dealing.file_name(rank) for rank in ranks[1:]]
    again = dealing.gathered(home, list(parts.values()))
    assert again["groups"] == TREE["groups"]
    for place, kept in TREE["state"].items():
        for name, tensor in kept.items():
            assert torch.equal(again["state"][place][name], tensor)
    if parts:
        with pytest.raises(KeyError):
            dealing.gathered(home, list(parts.values())[1:])


def test_ranks_write_about_as_much_as_each_other() -> None:
    tree = {str(place): torch.zeros(size) for place, size in enumerate(range(1, 60))}
    whole, first = sum(each.nbytes for each in tree.values()), 1000
    owners = dealing.deal(tree, first, [0, 1, 2])

    def written(rank: int) -> int:
        own: dict[str, Tensor] = dealing.own(tree, owners, rank)
        return sum(each.nbytes for each in own.values()) + (0 if rank else first)

    loads = [written(rank) for rank in range(3)]
    assert sum(loads) == whole + first
    assert max(loads) - min(loads) <= 60 * 4
    assert set(dealing.deal(tree, whole, [0, 1]).values()) == {1}
