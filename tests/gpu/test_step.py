"""A training step on a GPU: one wait, one result, on any stream."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.gpu.steps import (
    CPU,
    CUDA,
    EXACT,
    LARGER,
    SMALL,
    configured,
    same_bits,
    train,
    trainer_on,
    weights_of,
)

BF16 = ["attack.precision=bf16", "train.precision=bf16"]
VARIANTS = {
    "fp32": SMALL,
    "bf16": [*SMALL, *BF16],
    "bf16, larger": [*LARGER, *BF16],
    "fgsm_rs": [*SMALL, "attack.name=fgsm_rs"],
    "trades": [*SMALL, "objective.name=trades", "attack.loss=kl"],
    "sgd": [*SMALL, "optimizer.name=sgd"],
    "lars": [*SMALL, "optimizer.name=lars"],
    "in parts": [*SMALL, "train.backward_passes_per_step=2"],
}


@contextmanager
def no_waiting() -> Iterator[None]:
    """A block in which torch raises where the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", VARIANTS)
def test_nothing_waits_for_the_device(name: str) -> None:
    # without an exchanger there is no decision about finite gradients
    trainer, plan = trainer_on(CUDA, configured(*VARIANTS[name]))
    train(trainer, plan, range(2))  # a graph is captured in the second step
    with no_waiting():
        train(trainer, plan, range(1))
        following = list(plan.step(1))
        trainer.step(list(plan.step(0)), 0.01, following)
        trainer.step(following, 0.01)


def test_a_wait_is_seen() -> None:
    value = torch.ones(2, device=CUDA)
    with no_waiting(), pytest.raises(RuntimeError, match="synchroniz"):
        value.sum().item()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_repeated_to_the_bit_on_any_stream(name: str) -> None:
    config = configured(*VARIANTS[name])
    results = []
    for stream in (None, None, torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            trainer, plan = trainer_on(CUDA, config)
            train(trainer, plan, range(5))
        torch.cuda.synchronize()
        results.append(weights_of(trainer))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


@pytest.mark.parametrize("name", ["fp32", "bf16", "sgd"])
def test_resumed_is_uninterrupted(name: str) -> None:
    config = configured(*VARIANTS[name])
    trainer, plan = trainer_on(CUDA, config)
    train(trainer, plan, range(3))
    model = copy.deepcopy(trainer.model.state_dict())
    optimizer = copy.deepcopy(trainer.optimizer.state_dict())
    train(trainer, plan, range(3, 6))
    again, plan = trainer_on(CUDA, config)
    train(again, plan, range(2))  # its graph is older than the weights it goes on with
    again.model.load_state_dict(model)
    again.optimizer.load_state_dict(optimizer)
    train(again, plan, range(3, 6))
    assert same_bits(weights_of(trainer), weights_of(again))


def test_graphs_change_no_bit_of_a_run() -> None:
    results = []
    for graph in ("true", "false"):
        config = configured(*SMALL, f"attack.cuda_graph={graph}")
        trainer, plan = trainer_on(CUDA, config)
        train(trainer, plan, range(5))
        results.append(weights_of(trainer))
    assert same_bits(*results)


def test_a_step_is_the_cpus_within_rounding() -> None:
    # one attack step whose sign no rounding decides, in one update of plain SGD
    exact = ["attack.num_steps=1", "attack.random_start=false", "optimizer.name=sgd"]
    config = configured(*SMALL, *EXACT, *exact, "optimizer.momentum=0")
    results = []
    for device in (CPU, CUDA):
        trainer, plan = trainer_on(device, config)
        before = weights_of(trainer)
        train(trainer, plan, range(1))
        after = weights_of(trainer)
        results.append({name: after[name] - before[name] for name in before})
    for name, change in results[0].items():
        if change.is_floating_point():
            error = (results[1][name] - change).norm() / change.norm().clamp_min(1e-12)
            assert error < 0.02, name


def test_bf16_keeps_what_must_be_float32() -> None:
    trainer, plan = trainer_on(CUDA, configured(*LARGER, *BF16))
    exact, _ = trainer_on(CUDA, configured(*LARGER, *EXACT))
    for each in (trainer, exact):
        train(each, plan, range(1))
    tensors = [*trainer.model.parameters(), *trainer.model.buffers()]
    tensors += [
        weight.grad for weight in trainer.model.parameters() if weight.grad is not None
    ]
    floats = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    assert floats == {torch.float32}
    half, whole = (float(each.totals.sums[1]) for each in (trainer, exact))
    assert half == pytest.approx(whole, rel=0.02)


def test_weights_lie_channels_last() -> None:
    trainer, plan = trainer_on(CUDA, configured(*SMALL))
    train(trainer, plan, range(2))
    wide = [w for w in trainer.model.parameters() if w.dim() == 4 and w.shape[1] > 1]
    layout = torch.channels_last
    assert all(weight.is_contiguous(memory_format=layout) for weight in wide)
    assert all(
        weight.grad is not None and weight.grad.is_contiguous(memory_format=layout)
        for weight in wide
    )


def peak(*overrides: str, steps: int = 6) -> float:
    gc.collect()  # an earlier twin and its graphs hold one another
    trainer, plan = trainer_on(CUDA, configured(*overrides))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(trainer, plan, range(steps))
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def test_memory_does_not_grow_and_parts_save_some() -> None:
    # whole batches and odd ones have their graphs after a few epochs
    whole = peak(*LARGER, "train.batch_size=128", steps=16)
    assert peak(*LARGER, "train.batch_size=128", steps=32) <= 1.02 * whole
    parts = peak(
        *LARGER, "train.batch_size=128", "train.backward_passes_per_step=4", steps=16
    )
    assert parts < 0.7 * whole
