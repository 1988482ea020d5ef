"""Laws of a step: its gradients, its order, and steps that are skipped.

One function a law; every rank runs it, see ``exchange_worker.py``.
"""

from __future__ import annotations

import os
import time
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import nn

from dathvd.errors import UserError
from tests.parallel.exchange_rig import (
    CODECS,
    SHAPES,
    Toy,
    all_states,
    digest,
    distributed,
    everything,
    gradients,
    owed,
    pairs,
    run,
    same_everywhere,
    true_mean,
)
from tests.parallel.laws import ALONE_AND_TWO, EXCHANGE_LAWS, FEW


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def accumulated_passes_are_averaged() -> None:
    for name, exchange in (
        ("none", "allreduce"),
        ("none", "two-way"),
        ("fp16", "allreduce"),
        ("sign", "two-way"),
    ):
        toy = Toy()
        optimizer = distributed(
            toy, CODECS[name](), exchange, backward_passes_per_step=3
        )
        for step in range(3):
            toy.backward(gradients(step))
        optimizer.step()
        left = owed(all_states(optimizer))
        for parameter, mean in toy.means().items():
            expected = sum(true_mean(step)[parameter] for step in range(3)) / 3
            tolerance = 2e-3 if name == "fp16" else 1e-5
            got = mean.double() + left.get(parameter, torch.zeros(()))
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def the_mean_after_decompression_is_clipped_as_one_vector() -> None:
    """Its direction stays, what codecs owe is as without, and bad steps are skipped."""
    for name, exchange in (("none", "allreduce"), ("sign", "two-way")):
        plain, toy = Toy(), Toy()
        free = distributed(plain, CODECS[name](), exchange)
        # longer than the second step's mean, far shorter than the first's
        clipped = distributed(toy, CODECS[name](), exchange, max_gradient_norm=10.0)
        for step, factor in enumerate((1.0, 1e-6)):
            for each, optimizer in ((plain, free), (toy, clipped)):
                optimizer.zero_grad()
                each.backward({k: factor * v for k, v in gradients(step).items()})
                optimizer.step()
            means, found = plain.means(), toy.means()
            length = torch.cat([mean.flatten() for mean in means.values()]).norm()
            share = min(1.0, 10.0 / (float(length) + 1e-6))
            assert (share < 1) == (step == 0) or name == "sign", length
            for parameter, mean in means.items():
                torch.testing.assert_close(found[parameter], share * mean)
        if name == "none":
            continue
        before, after = owed(all_states(free)), owed(all_states(clipped))
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        worst = {k: v * torch.nan for k, v in gradients(2).items()}
        state = everything(toy, clipped)[0]
        clipped.zero_grad()
        toy.backward(worst)
        clipped.step()
        assert clipped.exchanger.last_skipped and everything(toy, clipped)[0] == state


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def a_warmup_is_exact_and_owes_nothing() -> None:
    """Its steps equal uncompressed ones; the next compresses, whoever resumes."""
    plain = Toy()
    exact = run(plain, distributed(plain, CODECS["none"](), "allreduce"), range(2))
    for name, exchange in (
        ("fp16", "allreduce"),
        ("sign", "two-way"),
        ("topk", "allgather"),
        ("powersgd", "allreduce"),
    ):
        toy, codec = Toy(), CODECS[name]()
        optimizer = distributed(toy, codec, exchange, warmup_steps=2)
        for mean, expected in zip(run(toy, optimizer, range(2)), exact):
            for parameter in SHAPES:
                torch.testing.assert_close(
                    mean[parameter], expected[parameter], rtol=1e-6, atol=1e-7
                )
        states = all_states(optimizer)
        assert not any(bool(left.any()) for left in owed(states).values()), name
        sent = optimizer.exchanger.ledger.snapshot(reset=True)
        assert {key.partition("/")[2] for key in sent} == {"none"}, (name, sent)
        later = run(toy, optimizer, range(2, 3))[0]
        resumed = Toy()
        fresh = distributed(resumed, CODECS[name](), exchange, warmup_steps=2)
        fresh.exchanger.load_state_dict(states)
        again = run(resumed, fresh, range(2, 3))[0]
        for parameter in SHAPES:
            assert torch.equal(later[parameter], again[parameter]), (name, parameter)
        assert not torch.equal(later["wide"], true_mean(2)["wide"].float()), name


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def parameters_without_a_gradient_count_as_zeros() -> None:
    for name, exchange in (("none", "allreduce"), ("sign", "two-way")):
        toy = Toy()
        head = toy.get_parameter("head").requires_grad_(False)
        frozen = head.detach().clone()
        optimizer = distributed(toy, CODECS[name](), exchange)
        mine = gradients(0)
        mine.pop("head")
        mine.pop("wide")  # no rank has it
        if hvd.rank() > 0:
            mine.pop("stem")  # only rank 0 has it
        toy.backward(mine)
        optimizer.step()
        assert head.grad is None and torch.equal(head, frozen)
        left = owed(all_states(optimizer))
        expected = {
            "stem": gradients(0, 0)["stem"].double() / hvd.size(),
            "wide": torch.zeros(SHAPES["wide"], dtype=torch.float64),
            "deep": true_mean(0)["deep"],
        }
        for parameter, mean in expected.items():
            got = toy.means()[parameter].double()
            got = got + left.get(parameter, torch.zeros(()))
            torch.testing.assert_close(got, mean, rtol=1e-5, atol=1e-5)
        assert same_everywhere(digest(toy.means()))
        head.requires_grad_(True)
        try:
            optimizer.step()
        except UserError as error:
            assert "head" in str(error)
        else:
            raise AssertionError("a thawed parameter was left out in silence")


@EXCHANGE_LAWS.on(*ALONE_AND_TWO, "gloo-2")
def non_finite_steps_change_nothing_on_any_rank() -> None:
    bad = [(float("nan"), "wide"), (float("-inf"), "norm"), (float("inf"), "deep")]
    for turn, (name, codec, exchange) in enumerate(pairs(CODECS)):
        one_bad_step(name, codec, exchange, *bad[turn % len(bad)])


def one_bad_step(name: str, codec: Any, exchange: str, bad: float, where: str) -> None:
    label = (name, exchange, bad, where)
    toy, twin = Toy(), Toy()
    optimizer = distributed(toy, codec, exchange)
    twin_optimizer = distributed(twin, codec, exchange)
    run(toy, optimizer, range(1))
    run(twin, twin_optimizer, range(1))
    before = everything(toy, optimizer)
    mine = gradients(1)
    if hvd.rank() == hvd.size() - 1:
        mine[where].view(-1)[5] = bad
    optimizer.zero_grad()
    toy.backward(mine)
    optimizer.step()
    assert everything(toy, optimizer) == before, label
    assert optimizer.exchanger.skipped == optimizer.exchanger.skipped_in_a_row == 1
    assert optimizer.exchanger.last_skipped
    # stochastic codecs count the skipped step as well
    twin_optimizer.exchanger.step += 1
    run(toy, optimizer, range(2, 4))
    run(twin, twin_optimizer, range(2, 4))
    assert everything(toy, optimizer) == everything(twin, twin_optimizer), label
    assert optimizer.exchanger.skipped_in_a_row == 0


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def large_gradients_are_finite_though_their_sum_is_not() -> None:
    toy = Toy()
    optimizer = distributed(toy, CODECS["none"](), "allreduce")
    large = {name: torch.full_like(each, 1e36) for name, each in gradients(0).items()}
    assert any(each.sum().isinf() for each in large.values())
    toy.backward(large)
    optimizer.step()
    assert optimizer.exchanger.skipped == 0
    assert all(mean.eq(large[name]).all() for name, mean in toy.means().items())


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def too_many_bad_steps_end_all_ranks() -> None:
    toy = Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way", max_skipped_in_a_row=3)
    for step in range(3):
        mine = gradients(step)
        if hvd.rank() == 0:
            mine["deep"].fill_(float("inf"))
        optimizer.zero_grad()
        toy.backward(mine)
        try:
            optimizer.step()
        except UserError as error:
            assert step == 2 and "3 steps in a row" in str(error)
            return
    raise AssertionError("three bad steps went by")


@EXCHANGE_LAWS.on(*FEW)
def ranks_may_submit_in_any_order() -> None:
    names = list(SHAPES)
    for name, exchange in (("sign", "two-way"), ("none", "allreduce")):
        toy = Toy()
        optimizer = distributed(toy, CODECS[name](), exchange, bucket_bytes=3000)
        assert len(optimizer.exchanger.exchanges) >= 4
        for step in range(4):
            turn = (hvd.rank() * 3 + step) % len(names)
            mine = gradients(step)
            optimizer.zero_grad()
            toy.backward({key: mine[key] for key in names[turn:] + names[:turn]})
            optimizer.step()
            assert same_everywhere(digest(toy.means()))


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def work_in_between_lets_exchanges_end() -> None:
    """After backward an attack may run: it fires no hook, and its passes poll."""
    toy, twin = Toy(), Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way", bucket_bytes=30_000)
    plain = distributed(twin, CODECS["sign"](), "two-way", bucket_bytes=30_000)
    expected = run(twin, plain, range(2))
    network = nn.Linear(77, 130)
    network.weight = toy.get_parameter("wide")
    for step in range(2):
        optimizer.zero_grad()
        toy.backward(gradients(step))
        exchanger = optimizer.exchanger
        assert exchanger.in_flight
        limit = time.monotonic() + 20
        while exchanger.poll():
            inputs = torch.ones(4, 77, requires_grad=True)
            torch.autograd.grad(network(inputs).square().sum(), inputs)
            assert time.monotonic() < limit
        waited = exchanger.ledger.waited_seconds
        optimizer.step()
        assert exchanger.ledger.waited_seconds == waited
        assert not exchanger.in_flight
        assert digest(toy.means()) == digest(expected[step])


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def synchronize_before_step_exchanges_once() -> None:
    """As for clipping: with or without ``skip_synchronize``, and with a closure."""
    results = []
    for way in ("step", "synchronize", "skip_synchronize"):
        toy = Toy()
        optimizer = distributed(toy, CODECS["sign"](), "two-way")
        for step in range(3):
            optimizer.zero_grad()
            toy.backward(gradients(step))
            if way != "step":
                optimizer.synchronize()
            if way == "skip_synchronize":
                with optimizer.skip_synchronize():
                    optimizer.step()
            else:
                assert optimizer.step(lambda: 7.0) == 7.0
        assert optimizer.exchanger.step == 3
        results.append(everything(toy, optimizer))
    assert results[0] == results[1] == results[2]


@EXCHANGE_LAWS.on("gloo-2")
def a_worker_that_goes_ends_the_wait_of_others() -> None:
    """The last law of a launch: rank 1 leaves, and the others must not hang.

    It leaves while they wait: Horovod 0.28.1 never answers what is submitted in the
    very moment in which it notices (it checks, and enters the tensor afterwards).
    """
    toy = Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way")
    run(toy, optimizer, range(1))
    optimizer.zero_grad()
    if hvd.rank() == 1:
        time.sleep(2)
        os._exit(0)
    try:
        toy.backward(gradients(1))
        optimizer.step()
    except HorovodInternalError:
        return
    raise AssertionError("a step was taken without a worker")
