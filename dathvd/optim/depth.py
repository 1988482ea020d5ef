"""Layer-wise decay of the learning rate: how deep each weight lies.

Clark et al., ELECTRA, ICLR 2020, section 3; in fine-tuning of vision transformers Bao
et al., BEiT, ICLR 2022.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def depths(names: Iterable[str], blocks: Sequence[str]) -> dict[str, int]:
    """The depth of every weight by name: 0 before the first block, b + 1 in block b.

    What lies between two blocks belongs to the one before it, and what comes after the
    last one has a depth of its own, the largest.

    Args:
        names: of the weights, in the order in which the network holds them.
        blocks: dotted names of the network's blocks, in that order.
    """
    found: dict[str, int] = {}
    now, seen = 0, 0
    for name in names:
        inside = [n for n, block in enumerate(blocks) if name.startswith(f"{block}.")]
        if inside:
            now, seen = inside[0] + 1, max(seen, inside[0] + 1)
        elif seen == len(blocks):
            now = len(blocks) + 1
        found[name] = now
    return found


def rate_share(depth: int, deepest: int, decay: float) -> float:
    """The share of the learning rate at a depth; 1 at the deepest."""
    return float(decay ** (deepest - depth))
