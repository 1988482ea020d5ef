"""Laws of the exchange that knows about nodes.

Ranks of one machine are told to be on nodes of several shapes; over Gloo, two names of
one host make them two nodes for Horovod itself. Every rank runs each law, see
``exchange_worker.py``.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import horovod.torch as hvd
import torch

from dathvd.compression import Compressor
from dathvd.compression.base import exchanges_of
from dathvd.distributed import placement
from dathvd.distributed.exchange_choice import choose_exchange
from dathvd.distributed.hierarchical import INSIDE
from dathvd.distributed.placement import Place, Placement
from tests.parallel.exchange_rig import (
    CODECS,
    COMPRESSED,
    FEEDBACK,
    SHAPES,
    Toy,
    all_states,
    balanced,
    digest,
    distributed,
    everything,
    gradients,
    owed,
    run,
    same_everywhere,
    spying,
    true_mean,
)
from tests.parallel.laws import EXCHANGE_LAWS
from tests.parallel.laws_of_bytes import payload
from tests.parallel.laws_of_steps import one_bad_step

Nodes = tuple[tuple[int, ...], ...]
TWO: Nodes = ((0, 1), (2, 3))
IN_TURN: Nodes = ((0, 2), (1, 3))
UNEVEN: Nodes = ((0, 1, 2), (3,))
ONE: Nodes = ((0, 1, 2, 3),)
APART: Nodes = ((0,), (1,), (2,), (3,))
SEVERAL = (TWO, IN_TURN, UNEVEN)


@contextlib.contextmanager
def placed(nodes: Nodes) -> Iterator[None]:
    """Have ranks believe that they are on those nodes."""
    places = {
        rank: Place(local, 0, len(ranks), host)
        for host, ranks in enumerate(nodes)
        for local, rank in enumerate(ranks)
    }
    told = [places[rank] for rank in range(hvd.size())]
    with mock.patch.object(placement, "everyones_places", lambda: told):
        yield


def on_nodes(
    toy: Toy, codec: Compressor, nodes: Nodes, inside: str = "fp32", **options: Any
) -> Any:
    """The hierarchical exchange among ranks on those nodes."""
    with placed(nodes):
        return distributed(toy, codec, "hierarchical", inside_nodes=inside, **options)


def suited(
    codecs: dict[str, Callable[[], Compressor]],
) -> Iterator[tuple[str, Compressor]]:
    """The codecs that the exchange can carry."""
    for name, make in codecs.items():
        if "hierarchical" in exchanges_of(make()):
            yield name, make()


@EXCHANGE_LAWS.on("mpi-4")
def any_placement_gives_the_same_mean() -> None:
    """Of uncompressed gradients, within the rounding of sums in another order."""
    for nodes in (*SEVERAL, ONE, APART):
        toy = Toy()
        applied = run(toy, on_nodes(toy, CODECS["none"](), nodes), range(2))
        assert same_everywhere(tuple(digest(means) for means in applied)), nodes
        for step, means in enumerate(applied):
            for name, mean in true_mean(step).items():
                torch.testing.assert_close(
                    means[name].double(), mean, rtol=2e-6, atol=2e-6
                )


@EXCHANGE_LAWS.on("mpi-4")
def nodes_lose_nothing() -> None:
    """Σ applied + owed = Σ true means, for every codec, placement and inner type."""
    steps = range(4)
    due = [true_mean(step) for step in steps]
    for turn, (name, codec) in enumerate(suited(FEEDBACK)):
        for inside in ("fp32", "bf16"):
            nodes = SEVERAL[turn % len(SEVERAL)]
            toy = Toy()
            optimizer = on_nodes(toy, codec, nodes, inside)
            applied = run(toy, optimizer, steps)
            assert same_everywhere(tuple(digest(means) for means in applied))
            left = owed(all_states(optimizer))
            balanced(applied, left, {}, due, name, inside)


@EXCHANGE_LAWS.on("mpi-4", "gloo-2x2")
def a_node_sends_what_a_worker_would() -> None:
    """The ledger against closed formulas, and against what Horovod is given."""
    for name, codec in suited(CODECS):
        toy = Toy()
        optimizer = on_nodes(toy, codec, TWO)
        with spying() as handed:
            run(toy, optimizer, range(1))
        entries = optimizer.exchanger.ledger.entries
        assert sum(handed) == sum(entry.handed_bytes for entry in entries.values())
        sent = {key: entry.sent_bytes for key, entry in entries.items()}
        inside = sum(value for key, value in sent.items() if key.endswith(INSIDE))
        plain = sent["allreduce/none"]
        across = sum(sent.values()) - inside - plain
        everyone = hvd.allgather_object((inside, across))
        node = sum(leaving for _, leaving in everyone) / len(TWO)
        assert abs(node - 2 * payload(name) * (1 - 1 / len(TWO))) < 1e-6, name
        in_node = sum(within for within, _ in everyone) / len(TWO)
        expected = 4 * sum(torch.Size(SHAPES[key]).numel() for key in COMPRESSED)
        assert abs(in_node - expected - payload(name)) < 1e-6, name
        predicted = sum(e.sent_bytes() for e in optimizer.exchanger.exchanges)
        assert abs(predicted - sum(sent.values())) < 1e-6, name
        leaving = [e.leaving_bytes() for e in optimizer.exchanger.exchanges]
        total = sum(one for one in leaving if one is not None)
        assert abs(total - across) < 1e-6, name


@EXCHANGE_LAWS.on("mpi-4")
def a_run_on_nodes_goes_on_exactly() -> None:
    for turn, (name, codec) in enumerate(suited(FEEDBACK)):
        nodes, inside = SEVERAL[turn % len(SEVERAL)], ("fp32", "bf16")[turn % 2]
        toy, again = Toy(), Toy()
        optimizer = on_nodes(toy, codec, nodes, inside)
        run(toy, optimizer, range(2))
        saved = io.BytesIO()
        torch.save((toy.state_dict(), optimizer.exchanger.state_dict()), saved)
        expected = run(toy, optimizer, range(2, 4))
        saved.seek(0)
        weights, state = torch.load(saved, weights_only=True)
        again.load_state_dict(weights)
        resumed = on_nodes(again, codec, nodes, inside)
        assert resumed.exchanger.fits(state)
        resumed.exchanger.load_state_dict([state])
        got = run(again, resumed, range(2, 4))
        assert [digest(m) for m in got] == [digest(m) for m in expected], name


@EXCHANGE_LAWS.on("mpi-4")
def another_placement_owes_the_same() -> None:
    """As many workers, on other nodes: what is owed is shared out anew, then paid."""
    ways = [(TWO, IN_TURN), (TWO, ONE), (ONE, TWO), (APART, UNEVEN), (UNEVEN, APART)]
    due = [true_mean(step) for step in range(3)]
    for turn, (old, new) in enumerate(ways):
        codec = list(FEEDBACK.values())[turn % 2 + 3]()
        toy, again = Toy(), Toy()
        optimizer = on_nodes(toy, codec, old, "bf16" if turn == 0 else "fp32")
        applied = run(toy, optimizer, range(2))
        states = all_states(optimizer)
        resumed = on_nodes(again, codec, new)
        fits = hvd.allgather_object(resumed.exchanger.fits(states[hvd.rank()]))
        assert fits == [False] * hvd.size(), (old, new)
        resumed.exchanger.load_state_dict(states)
        applied += run(again, resumed, range(2, 3))
        left = owed(all_states(resumed))
        balanced(applied, left, {}, due, codec.name, str(new))
        if new == ONE:  # a node pays at once and owes nothing
            assert not any(bool(value.any()) for value in left.values())


@EXCHANGE_LAWS.on("mpi-4", "gloo-2x2")
def nodes_skip_and_accumulate_and_overlap() -> None:
    for name, codec in suited({key: CODECS[key] for key in ("sign", "int8")}):
        with placed(TWO):
            one_bad_step(name, codec, "hierarchical", float("nan"), "wide")
        toy, twin = Toy(), Toy()
        optimizer = on_nodes(toy, codec, TWO, backward_passes_per_step=3)
        for step in range(3):
            toy.backward(gradients(step))
        while optimizer.exchanger.poll():
            pass
        optimizer.step()
        applied = toy.means()
        left = owed(all_states(optimizer))
        for parameter in COMPRESSED:
            expected = sum(true_mean(step)[parameter] for step in range(3)) / 3
            got = applied[parameter].double() + left.get(parameter, torch.zeros(()))
            tolerance = 1e-5 if codec.error_feedback else 0.1
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)
        waiting = on_nodes(twin, codec, TWO, backward_passes_per_step=3)
        for step in range(3):
            twin.backward(gradients(step))
        waiting.step()
        assert everything(toy, optimizer) == everything(twin, waiting), name


@EXCHANGE_LAWS.on("mpi-4")
def a_warmup_on_nodes_is_exact() -> None:
    for nodes in (TWO, ONE):
        toy = Toy()
        optimizer = on_nodes(toy, CODECS["sign"](), nodes, warmup_steps=1)
        (means,) = run(toy, optimizer, range(1))
        for name, mean in true_mean(0).items():
            torch.testing.assert_close(means[name].double(), mean, rtol=2e-6, atol=2e-6)
        left = owed(all_states(optimizer))
        assert not any(bool(value.any()) for value in left.values())


@EXCHANGE_LAWS.on("gloo-2x2")
def horovods_own_ranks_tell_the_nodes() -> None:
    """Two names of this host: local ranks repeat, and cross ranks tell them apart."""
    here = Placement.here()
    assert here.nodes == TWO, here
    chosen = choose_exchange(CODECS["sign"](), "auto", here)
    assert (chosen.name, chosen.reason) == ("hierarchical", "auto: 2 nodes of 2 ranks")
    text = distributed(Toy(), CODECS["sign"](), "auto").exchanger.describe()
    assert "sign by hierarchical (reduce-scatter inside nodes" in text, text
    assert "auto: 2 nodes of 2 ranks" in text and "leave the node" in text, text
