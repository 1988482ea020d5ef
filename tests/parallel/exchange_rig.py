"""What the workers of the exchange tests share: parameters with chosen gradients."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd.compression import COMPRESSORS, Compressor
from dathvd.distributed import DistributedOptimizer
from dathvd.errors import UserError

SHAPES = {
    "stem": (24, 16, 3, 3),
    "stem_bias": (24,),
    "wide": (130, 77),
    "norm": (130,),
    "tiny": (3, 5),
    "deep": (64, 24, 3, 3),
    "head": (10, 130),
}
COMPRESSED = ("stem", "wide", "deep", "head")
SIZES = {name: torch.Size(shape).numel() for name, shape in SHAPES.items()}
LARGE = sum(SIZES[name] for name in COMPRESSED)
SMALL = sum(SIZES.values()) - LARGE

_OPTIONS: dict[str, dict[str, Any]] = {"topk": {"density": 0.05}}
CODECS: dict[str, Callable[[], Compressor]] = {
    name: functools.partial(codec, **_OPTIONS.get(name, {}))
    for name, codec in COMPRESSORS.items()
}
"""Every registered codec."""
FEEDBACK: dict[str, Callable[[], Compressor]] = {
    name: functools.partial(codec, error_feedback=True, **_OPTIONS.get(name, {}))
    for name, codec in COMPRESSORS.items()
    if name not in ("none", "paper")
}
"""Those that lose something and may keep it, doing so."""


def pairs(
    codecs: dict[str, Callable[[], Compressor]],
) -> Iterator[tuple[str, Compressor, str]]:
    """Every codec with every exchange that it names."""
    for name, make in codecs.items():
        for exchange in make().exchanges:
            yield name, make(), exchange


class Toy(nn.Module):
    """Parameters whose gradients are whatever ``backward`` is given."""

    def __init__(
        self,
        memory_format: torch.memory_format | None = None,
        shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    ) -> None:
        super().__init__()
        torch.manual_seed(7)
        for name, shape in shapes.items():
            value = torch.randn(shape)
            if memory_format is not None and len(shape) == 4:
                value = value.contiguous(memory_format=memory_format)
            self.register_parameter(name, nn.Parameter(value))

    def backward(self, gradients: dict[str, Tensor]) -> None:
        """A real backward pass that leaves exactly these gradients, in their order."""
        terms = [
            (self.get_parameter(name) * gradient).sum()
            for name, gradient in gradients.items()
        ]
        torch.stack(terms).sum().backward()

    def means(self) -> dict[str, Tensor]:
        """What the parameters' ``grad`` holds now, copied."""
        return {
            name: parameter.grad.clone()
            for name, parameter in self.named_parameters()
            if parameter.grad is not None
        }


def distributed(
    toy: nn.Module, codec: Compressor, exchange: str, **options: Any
) -> Any:
    """Our optimizer over SGD with momentum, which has a state to watch."""
    base = torch.optim.SGD(toy.parameters(), lr=0.1, momentum=0.9)
    return DistributedOptimizer(
        base,
        named_parameters=toy.named_parameters(),
        compression=codec,
        exchange=exchange,
        **options,
    )


def gradients(
    step: int,
    rank: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
) -> dict[str, Tensor]:
    """This (or that) rank's gradients of a step, of very different scales."""
    generator = torch.Generator().manual_seed(
        1000 * step + (hvd.rank() if rank is None else rank)
    )
    return {
        name: torch.randn(shape, generator=generator) * 10.0 ** -(place % 4)
        for place, (name, shape) in enumerate(shapes.items())
    }


def true_mean(step: int) -> dict[str, Tensor]:
    """The mean over ranks of the step's gradients, in float64."""
    everyone = [gradients(step, rank) for rank in range(hvd.size())]
    return {
        name: torch.stack([each[name].double() for each in everyone]).mean(0)
        for name in SHAPES
    }


def run(toy: Toy, optimizer: Any, steps: range) -> list[dict[str, Tensor]]:
    """Train on ``gradients(step)``; the mean gradients that were applied."""
    applied = []
    for step in steps:
        optimizer.zero_grad()
        toy.backward(gradients(step))
        optimizer.step()
        applied.append(toy.means())
    return applied


def owed(states: list[Any]) -> dict[str, Tensor]:
    """What all ends owe, by parameter, from all states.

    With N workers on C nodes: 1/N · Σ workers' + 1/C · Σ senders' + owners' residuals.
    """
    total: dict[str, Tensor] = {}
    for state in states:
        for bucket in state["buckets"]:
            residuals, sizes = bucket["residuals"], []
            for slot in bucket["slots"]:
                assert slot["stride"] == list(torch.empty(slot["shape"]).stride())
                sizes.append(torch.Size(slot["shape"]).numel())
            flat = torch.zeros(sum(sizes), dtype=torch.float64)
            if "worker" in residuals:
                flat += residuals["worker"].double() / len(states)
            if "sender" in residuals:
                sent = residuals["sender"].double() / len(bucket["nodes"])
                flat[slice(*bucket["shard"])] += sent
            if "owner" in residuals:
                start, end = bucket["owned"]
                flat[start:end] += residuals["owner"].double()
            for slot, part in zip(bucket["slots"], flat.split(sizes)):
                shaped = part.view(slot["shape"])
                total[slot["name"]] = total.get(slot["name"], 0) + shaped
    return total


@contextlib.contextmanager
def spying() -> Iterator[list[int]]:
    """The bytes of each tensor that Horovod's asynchronous collectives are given."""
    handed: list[int] = []
    originals = {}
    for name in ("allreduce_async_", "allgather_async", "alltoall_async"):
        original = originals[name] = getattr(hvd, name)

        def counted(
            tensor: Tensor, *rest: Any, to: Any = original, **options: Any
        ) -> Any:
            handed.append(tensor.numel() * tensor.element_size())
            return to(tensor, *rest, **options)

        setattr(hvd, name, counted)
    try:
        yield handed
    finally:
        for method, original in originals.items():
            setattr(hvd, method, original)


def all_states(optimizer: Any) -> list[Any]:
    """Every rank's ``state_dict``."""
    states: list[Any] = hvd.allgather_object(optimizer.exchanger.state_dict())
    return states


def digest(tensors: dict[str, Tensor]) -> str:
    """A hash of all bits."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        whole.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()


def same_everywhere(value: Any) -> bool:
    """Whether all ranks hold an equal ``value``."""
    return len(set(hvd.allgather_object(value))) == 1


def balanced(
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


def everything(toy: Toy, optimizer: Any) -> tuple[str, ...]:
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


def refused(action: Callable[[], Any]) -> None:
    try:
        action()
    except UserError as error:
        assert "\n" not in str(error)
    else:
        raise AssertionError("not refused")
