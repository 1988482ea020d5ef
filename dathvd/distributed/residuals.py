"""Residuals in checkpoints, and what becomes of them with other workers.

What error feedback still owes the model is, with N workers' residuals e_r and the
owners' residuals E (each owner's chunk at its place),

    owed = 1/N · Σ_r e_r + E,

because the mean over the workers is what is applied. A run that goes on with N' workers
gives each of them the mean, e' = 1/N · Σ_r e_r, so that 1/N' · Σ e' is unchanged, and
cuts E anew; where no owner keeps a residual (an allgather), e' takes E too. ``owed`` is
thus the same before and after, whatever the numbers of workers, buckets and chunks.

Of the hierarchical exchange, the ranks that send a shard for their node owe it too:
with C nodes, 1/C · Σ s_c at the shard's place. It counts among the workers' means;
where there are such senders now, they take all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dathvd.distributed.buckets import Slot
from dathvd.distributed.exchanges import BucketExchange
from dathvd.distributed.hierarchical import Hierarchical
from dathvd.errors import UserError

State = dict[str, Any]
"""Tensors, integers, strings, lists and dictionaries only."""
_LAYOUT = ("slots", "owned", "blocks", "shard", "nodes")
"""The keys of a bucket's layout; the last two are the hierarchical exchange's alone."""


def save_bucket(exchange: BucketExchange) -> State:
    """What this worker keeps of one bucket, copied to the host."""
    residuals = _residuals(exchange)
    shared = exchange.shared_state()
    return {
        **_layout(exchange),
        "residuals": {end: kept.cpu().clone() for end, kept in residuals.items()},
        "shared": {name: value.cpu().clone() for name, value in shared.items()},
    }


def fit(exchanges: Sequence[BucketExchange], state: State) -> bool:
    """Whether a state of this rank among as many can be restored exactly.

    The answer is the same on all ranks: what is compared tells how all ranks cut.
    """
    saved = state["buckets"]
    return len(saved) == len(exchanges) and all(
        _matches(each, bucket) for each, bucket in zip(exchanges, saved)
    )


def load(
    exchanges: Sequence[BucketExchange], states: Sequence[State], rank: int, size: int
) -> None:
    """Restore this rank's own residuals exactly, or its share of what all owed.

    Args:
        exchanges: one a bucket.
        states: of all old ranks in order, or this rank's alone.
        rank: this worker's, from 0.
        size: the number of workers.

    Raises:
        UserError: states are missing, or something is owed to a parameter that no
            residual is kept for now.
    """
    own = [s for s in states if (s["rank"], s["size"]) == (rank, size)]
    if len(states) != 1 or not own:
        _check(states)
    if own and _load_same(exchanges, own[0]):
        return
    _check(states)
    _load_redistributed(exchanges, states)


def _check(states: Sequence[State]) -> None:
    """Refuse what is not one state of every rank of one step.

    Raises:
        UserError: a rank is missing or out of order, or steps differ.
    """
    if not states:
        raise UserError("checkpoint: no worker's residuals were given")
    size, step = int(states[0]["size"]), int(states[0]["step"])
    found = [int(state["rank"]) for state in states]
    if found != list(range(size)):
        raise UserError(
            "checkpoint: with other workers or buckets the residuals of all ranks 0 to "
            f"{size - 1} are needed in order, got those of {found}"
        )
    if any(int(state["step"]) != step for state in states):
        raise UserError("checkpoint: the workers' residuals are of different steps")


def _load_same(exchanges: Sequence[BucketExchange], state: State) -> bool:
    """Restore this rank's own residuals exactly; False where the layout is another."""
    if not fit(exchanges, state):
        return False
    for exchange, bucket in zip(exchanges, state["buckets"]):
        for end, residual in _residuals(exchange).items():
            residual.copy_(bucket["residuals"][end])
        exchange.load_shared_state(bucket["shared"])
    return True


def _load_redistributed(
    exchanges: Sequence[BucketExchange], states: Sequence[State]
) -> None:
    """Share out what the old workers and owners owed among the new.

    Raises:
        UserError: something is owed to a parameter that no residual is kept for now.
    """
    workers: dict[str, Tensor] = {}
    owners: dict[str, Tensor] = {}
    for state in states:
        for bucket in state["buckets"]:
            _add_up(bucket, 1.0 / len(states), workers, owners)
    for exchange in exchanges:
        _fill(exchange, workers, owners)
    lost = [name for name, owed in (workers | owners).items() if bool(owed.any())]
    if lost:
        raise UserError(
            f"checkpoint: {lost[0]} has a residual that this codec and these buckets "
            "cannot keep; go on with the codec that the run was started with"
        )
    for exchange, bucket in zip(exchanges, states[0]["buckets"]):
        if _layout(exchange)["slots"] == bucket["slots"] and bucket["shared"]:
            exchange.load_shared_state(bucket["shared"])


def _residuals(exchange: BucketExchange) -> dict[str, Tensor]:
    return {
        end: feedback.residual
        for end, feedback in exchange.ends().items()
        if feedback.residual is not None
    }


def _layout(exchange: BucketExchange) -> State:
    """Which parameters lie where in a bucket, and which part this rank owns."""
    slots = [
        {"name": slot.name, "shape": list(slot.shape), "stride": list(slot.stride)}
        for slot in exchange.bucket.slots
    ]
    return {"slots": slots, **exchange.cut()}


def _matches(exchange: BucketExchange, saved: State) -> bool:
    layout = _layout(exchange)
    return (
        all(saved.get(key) == layout.get(key) for key in _LAYOUT)
        and saved["residuals"].keys() == _residuals(exchange).keys()
        and saved["shared"].keys() == exchange.shared_state().keys()
    )


def _add_up(
    bucket: State, share: float, workers: dict[str, Tensor], owners: dict[str, Tensor]
) -> None:
    """Add one old worker's residuals, in float64, to the sums by parameter."""
    residuals = bucket["residuals"]
    if "worker" in residuals:
        _add(workers, bucket, residuals["worker"].double() * share)
    if "sender" in residuals:
        sent = residuals["sender"].double() / len(bucket["nodes"])
        _add(workers, bucket, _at(bucket, "shard", sent))
    if "owner" in residuals:
        _add(owners, bucket, _at(bucket, "owned", residuals["owner"]))


def _at(bucket: State, place: str, part: Tensor) -> Tensor:
    """A part of a bucket at its place in the whole, zero elsewhere."""
    sizes = [torch.Size(slot["shape"]).numel() for slot in bucket["slots"]]
    flat = torch.zeros(sum(sizes), dtype=torch.float64)
    flat[slice(*bucket[place])] = part
    return flat


def _add(owed: dict[str, Tensor], bucket: State, flat: Tensor) -> None:
    """Add a flat residual to its parameters' sums, which are in their own shapes."""
    offset = 0
    for saved in bucket["slots"]:
        shape, stride = tuple(saved["shape"]), tuple(saved["stride"])
        slot = Slot(saved["name"], offset, shape, stride)
        if slot.name in owed:
            owed[slot.name] += slot.view(flat)
        else:
            owed[slot.name] = slot.view(flat).clone()
        offset += slot.num_values


def _fill(
    exchange: BucketExchange, workers: dict[str, Tensor], owners: dict[str, Tensor]
) -> None:
    """Take a bucket's part out of ``workers`` and ``owners`` into its residuals."""
    residuals = _residuals(exchange)
    if not residuals:
        return
    worker, owner = (_gather(exchange, owed) for owed in (workers, owners))
    if "owner" in residuals:
        residuals["owner"].copy_(owner[slice(*exchange.owned)])
    else:
        worker += owner
    if isinstance(exchange, Hierarchical):
        residuals["sender"].copy_(worker[slice(*exchange.shard)])
        worker.zero_()
    if "worker" in residuals:
        residuals["worker"].copy_(worker)


def _gather(exchange: BucketExchange, owed: dict[str, Tensor]) -> Tensor:
    flat = torch.zeros(exchange.bucket.num_values, dtype=torch.float64)
    for slot in exchange.bucket.slots:
        if slot.name in owed:
            slot.view(flat).copy_(owed.pop(slot.name))
    return flat
