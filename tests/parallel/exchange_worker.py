"""Run by the exchange tests on some ranks: laws of the exchanges, one function each.

Arguments: the laws' names. Every rank runs every law; rank 0 prints those that held.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from dathvd import DistributedOptimizer
from dathvd.compression import Compression
from dathvd.distributed import (
    ReplicasDiverged,
    assert_identical,
    average_batch_norm,
    broadcast_parameters,
)
from dathvd.errors import UserError
from dathvd.hashing import parameters_sha256
from tests.parallel.exchange_rig import (
    CODECS,
    COMPRESSED,
    FEEDBACK,
    SHAPES,
    Toy,
    all_states,
    digest,
    distributed,
    gradients,
    owed,
    pairs,
    run,
    same_everywhere,
    true_mean,
)

SIZES = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
LARGE = sum(SIZES[name] for name in COMPRESSED)
SMALL = sum(SIZES.values()) - LARGE


def means_are_the_same_on_all_ranks() -> None:
    for name, codec, exchange in pairs(CODECS):
        toy = Toy()
        applied = run(toy, distributed(toy, codec, exchange), range(2))
        assert same_everywhere(tuple(digest(means) for means in applied)), name
        for parameter, mean in true_mean(1).items():
            if parameter not in COMPRESSED:
                torch.testing.assert_close(applied[1][parameter].double(), mean)


def two_way_and_allgather_of_none_equal_allreduce() -> None:
    results = {}
    for exchange in ("allreduce", "two-way", "allgather"):
        toy = Toy()
        results[exchange] = run(
            toy, distributed(toy, CODECS["none"](), exchange), range(1)
        )
    for exchange in ("two-way", "allgather"):
        for name, mean in results["allreduce"][0].items():
            other = results[exchange][0][name]
            if hvd.size() <= 2:
                assert torch.equal(mean, other), (exchange, name)
            torch.testing.assert_close(other.double(), true_mean(0)[name])
            torch.testing.assert_close(mean, other)


def nothing_is_lost() -> None:
    """Σ applied + owed = Σ true means, for every codec with feedback."""
    steps = range(5)
    for name, codec, exchange in pairs(FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        applied = run(toy, optimizer, steps)
        left = owed(all_states(optimizer))
        _balanced(
            applied, left, {}, [true_mean(step) for step in steps], name, exchange
        )
        if name != "fp16":
            assert all(left[parameter].abs().max() > 0 for parameter in COMPRESSED)


def _balanced(
    applied: list[dict[str, Tensor]],
    left: dict[str, Tensor],
    before: dict[str, Tensor],
    due: list[dict[str, Tensor]],
    *label: str,
) -> None:
    """Applied + left = before + due, to float32's rounding in blocks of the bucket."""
    # a sum that is formed in half precision is rounded where no end sees it
    allowed = 1e-3 if label == ("fp16", "allreduce") else 4e-7
    largest = max(float(mean[key].abs().max()) for mean in due for key in COMPRESSED)
    for parameter in COMPRESSED:
        error = left[parameter] - before.get(parameter, torch.zeros(()))
        for got, mean in zip(applied, due):
            error = error + got[parameter].double() - mean[parameter]
        assert error.abs().max() <= allowed * len(due) * largest, (label, parameter)


def payload(codec: str) -> int:
    """Closed formulas of what one worker's compressed tensors become, in bytes."""
    blocks = -(-LARGE // 512)
    span = CODECS["topk"]().block
    whole, rest = divmod(LARGE, span)
    kept = [round(0.05 * span)] * whole + [round(0.05 * rest)]
    return {
        "none": 4 * LARGE,
        "fp16": 2 * LARGE,
        "bf16": 2 * LARGE,
        "sign": blocks * (4 + 512 // 8),
        "int8": blocks * (4 + 512),
        "int4": blocks * (4 + 256),
        "topk": sum(4 * k + 4 * -(-k // 2) for k in kept),
        "paper": sum(4 + SIZES[name] + -SIZES[name] % 4 for name in COMPRESSED),
        "powersgd": 4
        * 2
        * sum(SHAPES[name][0] + SIZES[name] // SHAPES[name][0] for name in COMPRESSED),
    }[codec]


def spy(handed: list[int]) -> dict[str, Any]:
    """Count what Horovod's asynchronous collectives are really given."""
    originals = {}
    for name in ("allreduce_async_", "allgather_async", "alltoall_async"):
        original = originals[name] = getattr(hvd, name)

        def counted(
            tensor: Tensor, *rest: Any, to: Any = original, **options: Any
        ) -> Any:
            handed.append(tensor.numel() * tensor.element_size())
            return to(tensor, *rest, **options)

        setattr(hvd, name, counted)
    return originals


def bytes_equal_the_closed_formulas() -> None:
    size = hvd.size()
    share = (size - 1) / size
    for name, codec, exchange in pairs(CODECS):
        toy, handed = Toy(), []  # type: Toy, list[int]
        optimizer = distributed(toy, codec, exchange)
        originals = spy(handed)
        try:
            run(toy, optimizer, range(1))
        finally:
            for method, original in originals.items():
                setattr(hvd, method, original)
        ledger = optimizer.exchanger.ledger
        entries = ledger.entries.values()
        if size > 1:
            assert sum(handed) == sum(entry.handed_bytes for entry in entries), name
            assert len(handed) == sum(entry.calls for entry in entries), name
        factor = {
            "allreduce": 2 * share,
            "allgather": size - 1,
            "two-way": 2 * share,
        }[exchange]
        everyone = hvd.allgather_object(ledger.sent_bytes)
        expected = payload(name) * factor + 4 * SMALL * 2 * share
        assert abs(sum(everyone) / size - expected) < 1e-6, (name, exchange, expected)
        predicted = sum(e.sent_bytes() for e in optimizer.exchanger.exchanges)
        assert abs(predicted - ledger.sent_bytes) < 1e-6, (name, exchange)


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


def non_finite_steps_change_nothing_on_any_rank() -> None:
    bad = [(float("nan"), "wide"), (float("-inf"), "norm"), (float("inf"), "deep")]
    for turn, (name, codec, exchange) in enumerate(pairs(CODECS)):
        _one_bad_step(name, codec, exchange, *bad[turn % len(bad)])


def _one_bad_step(name: str, codec: Any, exchange: str, bad: float, where: str) -> None:
    label = (name, exchange, bad, where)
    toy, twin = Toy(), Toy()
    optimizer = distributed(toy, codec, exchange)
    twin_optimizer = distributed(twin, codec, exchange)
    run(toy, optimizer, range(1))
    run(twin, twin_optimizer, range(1))
    before = _everything(toy, optimizer)
    mine = gradients(1)
    if hvd.rank() == hvd.size() - 1:
        mine[where].view(-1)[5] = bad
    optimizer.zero_grad()
    toy.backward(mine)
    optimizer.step()
    assert _everything(toy, optimizer) == before, label
    assert optimizer.exchanger.skipped == optimizer.exchanger.skipped_in_a_row == 1
    assert optimizer.exchanger.last_skipped
    # stochastic codecs count the skipped step as well
    twin_optimizer.exchanger.step += 1
    run(toy, optimizer, range(2, 4))
    run(twin, twin_optimizer, range(2, 4))
    assert _everything(toy, optimizer) == _everything(twin, twin_optimizer), label
    assert optimizer.exchanger.skipped_in_a_row == 0


def _everything(toy: Toy, optimizer: Any) -> tuple[str, ...]:
    """Hashes of parameters, momentum, residuals and factors."""
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in toy.named_parameters()
    }
    kept = {
        f"{place}.{kind}.{key}": value
        for place, bucket in enumerate(optimizer.exchanger.state_dict()["buckets"])
        for kind in ("residuals", "shared")
        for key, value in bucket[kind].items()
    }
    weights = {name: p.detach() for name, p in toy.named_parameters()}
    return digest(weights), digest(momentum), digest(kept)


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


def a_saved_run_goes_on_exactly() -> None:
    for name, codec, exchange in pairs(CODECS | FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        run(toy, optimizer, range(2))
        file = io.BytesIO()
        torch.save(all_states(optimizer), file)
        weights = {key: value.clone() for key, value in toy.state_dict().items()}
        expected = run(toy, optimizer, range(2, 4))
        file.seek(0)
        again = Toy()
        again.load_state_dict(weights)
        resumed = distributed(again, codec, exchange)
        resumed.exchanger.load_state_dict(torch.load(file, weights_only=True))
        assert resumed.exchanger.step == 2
        got = run(again, resumed, range(2, 4))
        assert [digest(m) for m in got] == [digest(m) for m in expected], name


def workers_leave_residuals() -> None:
    """Save what these workers owe after three steps, for other launches to load."""
    for name, codec, exchange in pairs(FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        run(toy, optimizer, range(3))
        states = all_states(optimizer)
        if hvd.rank() == 0:
            torch.save(states, _left_by_others(name, exchange))


def other_numbers_of_workers_owe_the_same() -> None:
    """Load what other workers left, and lose nothing in going on from there."""
    for name, codec, exchange in pairs(FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        states = torch.load(_left_by_others(name, exchange), weights_only=True)
        assert len(states) != hvd.size()
        optimizer.exchanger.load_state_dict(states)
        assert optimizer.exchanger.step == 3
        before, after = owed(states), owed(all_states(optimizer))
        for parameter in COMPRESSED:
            scale = before[parameter].abs().max()
            assert scale > 0 or name == "fp16"
            error = (before[parameter] - after[parameter]).abs().max()
            assert error <= 1e-6 * scale, (name, exchange, parameter)
        applied = run(toy, optimizer, range(3, 5))
        left, due = owed(all_states(optimizer)), [true_mean(3), true_mean(4)]
        _balanced(applied, left, before, due, name, exchange)


def _left_by_others(name: str, exchange: str) -> Path:
    return Path(os.environ["EXCHANGE_STATES"]) / f"{name}-{exchange}.pt"


def what_cannot_be_kept_is_refused() -> None:
    toy = Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way")
    run(toy, optimizer, range(2))
    states = all_states(optimizer)
    plain = distributed(Toy(), CODECS["none"](), "allreduce")
    gather = distributed(Toy(), CODECS["topk"](), "allgather", bucket_bytes=30_000)
    gather.exchanger.load_state_dict(states)
    before, after = owed(states), owed(all_states(gather))
    for parameter in COMPRESSED:
        torch.testing.assert_close(before[parameter], after[parameter])
    again = distributed(Toy(), CODECS["sign"](), "two-way")
    again.exchanger.load_state_dict([states[hvd.rank()]])
    assert digest_of(all_states(again)) == digest_of(states)
    if hvd.size() > 1:
        other = [states[hvd.rank() - 1]]
        _refused(lambda: again.exchanger.load_state_dict(other))
    for broken in ([], states[1:], [*states, states[0]]):
        _refused(lambda: plain.exchanger.load_state_dict(broken))
    _refused(lambda: plain.exchanger.load_state_dict(states))


def digest_of(states: list[Any]) -> str:
    return digest({key: residual.float() for key, residual in owed(states).items()})


def _refused(action: Callable[[], Any]) -> None:
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error)
    else:
        raise AssertionError("not refused")


def seeds_decide() -> None:
    for name in ("int8", "int4"):
        results = []
        for seed in (1, 1, 2):
            toy = Toy()
            optimizer = distributed(toy, CODECS[name](), "two-way", seed=seed)
            results.append([digest(means) for means in run(toy, optimizer, range(2))])
        assert results[0] == results[1] != results[2], name


def rounding_is_unbiased_across_workers_and_steps() -> None:
    """The mean of many exchanges of one gradient is that gradient's mean."""
    repeats = 60
    toy = Toy()
    optimizer = distributed(
        toy, Compression.int4(error_feedback=False), "two-way", min_values=2000
    )
    total = torch.zeros(SHAPES["wide"], dtype=torch.float64)
    for _ in range(repeats):
        optimizer.zero_grad()
        toy.backward(gradients(0))
        optimizer.step()
        total += toy.means()["wide"]
    mean, scale = true_mean(0)["wide"], gradients(0)["wide"].abs().max()
    deviation = (total / repeats - mean).abs().mean() / scale
    # one level is 1/7 of a block's maximum; two roundings, averaged over the repeats
    assert deviation < 0.5 / 7 / repeats**0.5, deviation


def bucket_size_does_not_matter_to_casts() -> None:
    for name in ("none", "fp16", "bf16"):
        for exchange in CODECS[name]().exchanges:
            results = []
            for bucket_bytes in (4_000, 60_000, 10**7):
                toy = Toy()
                optimizer = distributed(
                    toy, CODECS[name](), exchange, bucket_bytes=bucket_bytes
                )
                results.append(run(toy, optimizer, range(1))[0])
            for other in results[1:]:
                for parameter, mean in results[0].items():
                    if hvd.size() <= 2 or exchange != "allreduce":
                        assert torch.equal(mean, other[parameter]), (name, exchange)
                    torch.testing.assert_close(
                        mean, other[parameter], rtol=2e-3, atol=1e-4
                    )


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
        with exchanger.polling(network):
            while any(transfer.pending for transfer in exchanger._transfers):
                inputs = torch.ones(4, 77, requires_grad=True)
                torch.autograd.grad(network(inputs).square().sum(), inputs)
                assert time.monotonic() < limit
        assert not network._forward_pre_hooks
        waited = exchanger.ledger.waited_seconds
        optimizer.step()
        assert exchanger.ledger.waited_seconds == waited
        assert not exchanger.in_flight
        assert digest(toy.means()) == digest(expected[step])


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
        results.append(_everything(toy, optimizer))
    assert results[0] == results[1] == results[2]


def saving_in_flight_is_refused() -> None:
    toy = Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way")
    toy.backward(gradients(0))
    for action in (
        optimizer.exchanger.state_dict,
        lambda: optimizer.exchanger.load_state_dict([]),
        optimizer.zero_grad,
    ):
        try:
            action()
        except (RuntimeError, AssertionError):
            continue
        raise AssertionError("done while gradients travelled")
    optimizer.step()
    optimizer.exchanger.state_dict()


def a_worker_that_goes_ends_the_wait_of_others() -> None:
    """The last law of a launch: rank 1 leaves, and the others must not hang."""
    toy = Toy()
    optimizer = distributed(toy, CODECS["sign"](), "two-way")
    run(toy, optimizer, range(1))
    optimizer.zero_grad()
    if hvd.rank() == 1:
        os._exit(0)
    toy.backward(gradients(1))
    try:
        optimizer.step()
    except HorovodInternalError:
        return
    raise AssertionError("a step was taken without a worker")


def the_description_tells_what_travels() -> None:
    text = distributed(Toy(), CODECS["sign"](), "two-way").exchanger.describe()
    assert text.startswith("sign by two-way (alltoall, mean, allgather), "), text
    assert "error feedback at both ends" in text
    assert f"{LARGE:,} values in 1 bucket compressed" in text
    assert f"{SMALL:,} values in 1 bucket not" in text
    sent = "MB sent a worker and step (float32 ring allreduce: "
    assert (sent in text) == (hvd.size() > 1)
    assert ("1 worker, nothing is sent" in text) == (hvd.size() == 1)


def training_equals_plain_horovod() -> None:
    """Two workers add the same two numbers: equal bits with Horovod's own path."""
    results = []
    for wrap in (DistributedOptimizer, hvd.DistributedOptimizer):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()
        )
        network.append(nn.Linear(16 * 36, 10))
        base = torch.optim.Adam(network.parameters(), lr=1e-2)
        optimizer: Any = wrap(base, named_parameters=network.named_parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        generator = torch.Generator().manual_seed(hvd.rank())
        for _ in range(3):
            images = torch.randn(8, 3, 8, 8, generator=generator)
            optimizer.zero_grad()
            network(images).logsumexp(1).sum().backward()
            optimizer.step()
            schedule.step()
        results.append(list(network.parameters()))
    for mine, plain in zip(*results):
        if hvd.size() <= 2:
            assert torch.equal(mine, plain)
        torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)


def other_types_and_layouts_travel() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        toy = Toy().to(dtype)
        optimizer = distributed(toy, CODECS["sign"](), "two-way")
        toy.backward({name: g.to(dtype) for name, g in gradients(0).items()})
        optimizer.step()
        for name, mean in toy.means().items():
            assert mean.dtype == dtype
            got, expected = mean.double(), true_mean(0)[name]
            torch.testing.assert_close(got, expected, rtol=2e-2, atol=2e-2)
    results = []
    for memory_format in (None, torch.channels_last):
        toy = Toy(memory_format)
        optimizer = distributed(toy, CODECS["none"](), "two-way")
        results.append(run(toy, optimizer, range(1))[0])
        deep = toy.get_parameter("deep")
        assert deep.grad is not None and deep.grad.stride() == deep.stride()
    for name, mean in results[0].items():
        assert torch.equal(mean, results[1][name]), name


def different_plans_are_refused_on_all_ranks() -> None:
    if hvd.size() > 1:
        _refused(lambda: distributed(Toy(), CODECS["int8"](), "auto", seed=hvd.rank()))
    _refused(lambda: distributed(Toy(), CODECS["sign"](), "allreduce"))
    _refused(lambda: distributed(Toy(), CODECS["sign"](), "two-ways"))
    _refused(lambda: distributed(Toy(), CODECS["sign"](), "auto", bucket_bytes=0))


def replicas_are_made_and_proved_equal() -> None:
    torch.manual_seed(hvd.rank())
    norm = nn.BatchNorm2d(4)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 4, dtype=torch.bfloat16)
    )
    kernel = network.get_parameter("0.weight")
    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    first = parameters_sha256(network)
    if hvd.size() > 1:
        _diverged(network, "0.bias")
    broadcast_parameters(network)
    assert same_everywhere(assert_identical(network))
    assert (assert_identical(network) == first) == (hvd.rank() == 0)
    assert parameters_sha256(network) == assert_identical(network)
    if hvd.rank() == hvd.size() - 1 and hvd.size() > 1:
        assert norm.running_var is not None
        norm.running_var[2] += 1e-6
    if hvd.size() > 1:
        _diverged(network, "1.running_var")


def _diverged(network: nn.Module, tensor: str) -> None:
    try:
        assert_identical(network)
    except ReplicasDiverged as error:
        assert str(error).startswith(f"{tensor}: rank ")
    else:
        raise AssertionError("different replicas were called identical")


def batch_norm_statistics_are_pooled() -> None:
    """With momentum 1 they are those of all workers' samples together."""
    generator = torch.Generator().manual_seed(0)
    everyone = torch.randn(hvd.size(), 64, 5, generator=generator) * 3
    everyone += torch.arange(hvd.size())[:, None, None]
    layer = nn.BatchNorm1d(5, momentum=1.0)
    layer(everyone[hvd.rank()])
    average_batch_norm(nn.Sequential(layer, nn.BatchNorm1d(5, affine=False)))
    biased = (64 - 1) / 64  # each worker's variance has Bessel's correction
    expected = everyone.var((0, 1), correction=0)
    between = everyone.mean(1).var(0, correction=0)
    assert layer.running_mean is not None and layer.running_var is not None
    torch.testing.assert_close(layer.running_mean, everyone.mean((0, 1)))
    within = (layer.running_var - between) * biased
    torch.testing.assert_close(within + between, expected)
    assert same_everywhere(parameters_sha256(layer))


def main() -> None:
    hvd.init()
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        began = time.monotonic()
        globals()[name]()
        if hvd.rank() == 0:
            print(f"held: {name} ({time.monotonic() - began:.2f} s)", flush=True)


if __name__ == "__main__":
    main()
