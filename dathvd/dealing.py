"""Tensors of a dictionary dealt out to several files, and gathered again.

``model.pt`` always holds the networks whole, so that it alone can be loaded; what the
optimizer keeps, often twice as much, is written by all ranks that share a disk. In
its place the dictionary says in which file each tensor is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

_ELSEWHERE = "tensor in file"
_SEPARATOR = "/"


def file_name(rank: int) -> str:
    """What a rank's tensors are written to."""
    return f"optimizer-{rank:05d}.pt"


def deal(tree: dict[str, Any], first: int, ranks: Sequence[int]) -> dict[str, int]:
    """Which rank writes which tensor, by path; the same on all ranks.

    The largest tensor goes to the rank that has least to write, and so on.

    Args:
        tree: the dictionary, the same on all ranks but for values.
        first: bytes that the first rank writes anyhow.
        ranks: those that write; the first keeps its tensors in the dictionary.
    """
    sizes: dict[str, int] = {}
    walk(tree, lambda path, each: sizes.update({path: each.nbytes}))
    loads = {rank: 0 for rank in ranks} | {ranks[0]: first}
    owners: dict[str, int] = {}
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        owners[path] = min(ranks, key=lambda rank: loads[rank])
        loads[owners[path]] += sizes[path]
    return owners


def kept(tree: dict[str, Any], owners: dict[str, int], rank: int) -> dict[str, Any]:
    """The dictionary with the files of other ranks' tensors in their place."""

    def place(path: str, tensor: Tensor) -> Any:
        owner = owners[path]
        return tensor if owner == rank else {_ELSEWHERE: file_name(owner)}

    found: dict[str, Any] = walk(tree, place)
    return found


def own(tree: dict[str, Any], owners: dict[str, int], rank: int) -> dict[str, Tensor]:
    """The tensors that a rank writes, by path."""
    found: dict[str, Tensor] = {}
    walk(tree, lambda path, each: found.update({path: each}))
    return {path: each for path, each in found.items() if owners[path] == rank}


def files(tree: Any) -> list[str]:
    """The names of the files that hold tensors of such a dictionary."""
    names: set[str] = set()
    walk(tree, lambda path, each: None, lambda path, name: names.add(name))
    return sorted(names)


def gathered(tree: dict[str, Any], parts: Sequence[dict[str, Tensor]]) -> Any:
    """The dictionary with its tensors back in place.

    Raises:
        KeyError: a tensor is in none of the parts.
    """
    whole = {path: tensor for part in parts for path, tensor in part.items()}
    return walk(tree, lambda path, each: each, lambda path, name: whole[path])


def walk(
    tree: Any,
    at_tensor: Callable[[str, Tensor], Any],
    at_file: Callable[[str, str], Any] | None = None,
    path: str = "",
) -> Any:
    """The same dictionaries and lists with tensors and names of files replaced.

    Args:
        tree: dictionaries and lists of tensors and plain values.
        at_tensor: what stands for a tensor, by its path and itself.
        at_file: what stands for a file's name, by the path; None leaves them.
        path: of the tree itself.
    """
    if isinstance(tree, Tensor):
        return at_tensor(path, tree)
    if isinstance(tree, dict):
        if at_file is not None and set(tree) == {_ELSEWHERE}:
            return at_file(path, str(tree[_ELSEWHERE]))
        pairs = [(key, f"{path}{_SEPARATOR}{key}", each) for key, each in tree.items()]
        return {key: walk(each, at_tensor, at_file, at) for key, at, each in pairs}
    if isinstance(tree, (list, tuple)):
        return type(tree)(
            walk(each, at_tensor, at_file, f"{path}{_SEPARATOR}{place}")
            for place, each in enumerate(tree)
        )
    return tree
