"""Laws of batch norm over workers; started on several ranks, prints what it checked."""

from __future__ import annotations

import copy
import sys

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd.benchmark.step.trainers import batch_plan, build_trainer
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.distributed import (
    PASS_TRAFFIC,
    PUBLISHED_BATCH_NORM,
    synchronise_batch_norm,
)
from dathvd.runtime import Runtime, start
from dathvd.training.batches import BatchPlan
from dathvd.training.workers import build_state


def network(momentum: float | None) -> nn.Sequential:
    """Two batch norms, one of them without parameters, in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3, momentum=momentum),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(3 * 9, 4),
        nn.BatchNorm1d(4, affine=False),
        nn.Linear(4, 2),
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def pass_through(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Outputs, and the gradients of a sum over samples, in the inputs and weights."""
    inputs = images.clone().requires_grad_()
    outputs = model(inputs)
    loss = (outputs.square() * torch.arange(1.0, 3.0)).sum()
    return outputs.detach(), list(
        torch.autograd.grad(loss, [inputs, *model.parameters()])
    )


def check_layers(momentum: float | None, counts: list[int]) -> None:
    """Shares of ``counts`` samples give what one process gives for all of them."""
    alone, ours = network(momentum), synchronise_batch_norm(network(momentum))
    for turn in range(2):
        torch.manual_seed(turn)
        # far from zero: sums of squares in float32 would lose all digits
        everyone = 300 + torch.randn(sum(counts), 2, 5, 5, dtype=torch.float64)
        expected, gradients = pass_through(alone, everyone)
        PASS_TRAFFIC.snapshot(reset=True)
        own = everyone.split(counts)[hvd.rank()]
        outputs, found = pass_through(ours, own)
        # 3 and 4 channels: counts and both sums on the way there, two sums back
        handed = 8 * ((1 + 6) + (1 + 8) + 6 + 8)
        entry = PASS_TRAFFIC.snapshot()["allreduce/batch norm"]
        assert entry["calls"] == 4 and entry["handed_bytes"] == handed
        assert entry["sent_bytes"] == handed * 2 * (hvd.size() - 1) / hvd.size()
        close = torch.testing.assert_close
        close(outputs, expected.split(counts)[hvd.rank()])
        close(found[0], gradients[0].split(counts)[hvd.rank()])
        for gradient, whole in zip(found[1:], gradients[1:], strict=True):
            close(hvd.allreduce(gradient, op=hvd.Sum), whole)
        for name, value in alone.state_dict().items():
            close(ours.state_dict()[name], value)
    ours.eval(), alone.eval()
    close(ours(own), alone(own))


def check_step(runtime: Runtime) -> None:
    """Three real steps, the last with fewer images than workers, are one worker's."""
    config = load_config(
        None,
        [
            "data.name=synthetic", "data.num_train=13", "data.image_size=8",
            "data.num_test=1", "train.batch_size=6", "attack.num_steps=2",
            "model.width=4", "model.normalization=batch", "optimizer.name=sgd",
            "train.batch_norm=synchronised", "seed=3",
        ],
    )  # fmt: skip
    dataset = load_dataset(config.data)
    state = build_state(config, dataset, runtime)
    alone = build_trainer(config, dataset, runtime.device)
    alone.model.load_state_dict(state.trainer.model.state_dict())
    whole = batch_plan(config, dataset, runtime.device)
    shared = BatchPlan(
        images=dataset.train, batch_size=6, passes=1, rank=runtime.rank,
        size=runtime.size, seed=3, augment=None, device=runtime.device, keep_empty=True,
    )  # fmt: skip
    for step in range(3):
        batches = list(shared.step(step))
        state.trainer.step(batches, 0.02)
        alone.step(list(whole.step(step)), 0.02)
    assert (len(batches[0].images) == 0) is (runtime.rank > 0)
    expected = alone.model.state_dict()
    for name, value in state.published_model().state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def check_policies() -> None:
    """Averaged statistics are the pooled samples', local ones are rank 0's."""
    model = network(momentum=1.0)
    parts = [300 + 3 * torch.randn(4, 2, 5, 5, dtype=torch.float64) for _ in range(3)]
    own, *_ = parts[hvd.rank() :]
    model(own)
    layer = model[1]
    assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None
    mine = copy.deepcopy(layer.state_dict())
    means = hvd.allgather(layer.running_mean[None], name="means")
    for policy, expected in (
        ("local", means[0]),
        ("averaged", means.mean(0)),
        ("synchronised", layer.running_mean),
    ):
        published = copy.deepcopy(model)
        PUBLISHED_BATCH_NORM[policy](published)
        torch.testing.assert_close(published[1].running_mean, expected)
    assert torch.equal(layer.running_mean, mine["running_mean"]), "the original moved"


if __name__ == "__main__":
    place = start("cpu")
    torch.manual_seed(0)
    check_layers(0.1, [5, 2])
    check_layers(None, [7, 0])
    check_step(place)
    check_policies()
    print(f"rank {place.rank}: all laws hold")
    sys.stdout.flush()
