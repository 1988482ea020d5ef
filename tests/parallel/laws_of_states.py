"""Laws of saved residuals, of replicas and of what is refused.

One function a law; every rank runs it, see ``exchange_worker.py``.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import horovod.torch as hvd
import torch
from torch import nn

from dathvd.distributed import (
    ReplicasDiverged,
    assert_identical,
    average_batch_norm,
    broadcast_parameters,
)
from dathvd.hashing import parameters_sha256
from tests.parallel.exchange_rig import (
    CODECS,
    COMPRESSED,
    FEEDBACK,
    Toy,
    all_states,
    balanced,
    digest,
    distributed,
    gradients,
    owed,
    pairs,
    refused,
    run,
    same_everywhere,
    true_mean,
)
from tests.parallel.laws import ALONE_AND_TWO, EXCHANGE_LAWS


@EXCHANGE_LAWS.on(*ALONE_AND_TWO, "mpi-3")
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


@EXCHANGE_LAWS.on("mpi-3")
def workers_leave_residuals() -> None:
    """Save what these workers owe after three steps, for other launches to load."""
    for name, codec, exchange in pairs(FEEDBACK):
        toy = Toy()
        optimizer = distributed(toy, codec, exchange)
        run(toy, optimizer, range(3))
        states = all_states(optimizer)
        if hvd.rank() == 0:
            torch.save(states, _left_by_others(name, exchange))


@EXCHANGE_LAWS.on(*ALONE_AND_TWO, "mpi-4")
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
        balanced(applied, left, before, due, name, exchange)


def _left_by_others(name: str, exchange: str) -> Path:
    return Path(os.environ["EXCHANGE_STATES"]) / f"{name}-{exchange}.pt"


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
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
        refused(lambda: again.exchanger.load_state_dict(other))
    for broken in ([], states[1:], [*states, states[0]]):
        refused(lambda: plain.exchanger.load_state_dict(broken))
    refused(lambda: plain.exchanger.load_state_dict(states))


def digest_of(states: list[Any]) -> str:
    return digest({key: residual.float() for key, residual in owed(states).items()})


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
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


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
def different_plans_are_refused_on_all_ranks() -> None:
    if hvd.size() > 1:
        refused(lambda: distributed(Toy(), CODECS["int8"](), "auto", seed=hvd.rank()))
    refused(lambda: distributed(Toy(), CODECS["sign"](), "allreduce"))
    refused(lambda: distributed(Toy(), CODECS["sign"](), "two-ways"))
    refused(lambda: distributed(Toy(), CODECS["sign"](), "auto", bucket_bytes=0))


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
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


@EXCHANGE_LAWS.on(*ALONE_AND_TWO)
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
