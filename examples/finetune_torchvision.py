"""Robust fine-tuning of a torchvision network with a new last layer.

::

    horovodrun -np 2 python examples/finetune_torchvision.py --weights resnet18.pth

``--weights`` is a file of the network's trained weights (torchvision's own, saved with
``torch.save(model.state_dict(), FILE)``); without it the network starts at random. The
images here are scikit-learn's digits, enlarged to three channels of 32×32: put your own
in their place.
"""

from __future__ import annotations

import argparse

import horovod.torch as hvd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dathvd
from dathvd.attacks import PGD, LinfBall
from dathvd.noise import SampleNoise
from dathvd.torchvision_shim import torchvision  # beside a CPU build of torch, too


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Images ``[1797, 3, 32, 32]`` in [0, 1] and their labels."""
    bunch = load_digits()
    small = torch.tensor(bunch.images, dtype=torch.float32).div(16).unsqueeze(1)
    large = nn.functional.interpolate(small, size=32, mode="bilinear")
    return large.expand(-1, 3, -1, -1), torch.tensor(bunch.target)


def network(name: str, weights: str | None, num_classes: int) -> nn.Module:
    """torchvision's network of that name with a new last layer."""
    model: nn.Module = getattr(torchvision.models, name)(weights=None)
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True))
    torch.manual_seed(0)
    assert isinstance(model.fc, nn.Linear), f"{name} ends with another layer"
    model.fc = nn.Linear(model.fc.in_features, num_classes)
    return model


def main() -> None:
    """Train with PGD; the new head learns ten times as fast as what it stands on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet18", help="one with a layer fc")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--head-only", action="store_true", help="freeze all else")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64, help="over all workers")
    options = parser.parse_args()

    hvd.init()
    images, labels = images_and_labels()
    model = network(options.network, options.weights, num_classes=10)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    named = list(model.named_parameters())
    head = [p for name, p in named if name.startswith("fc.")]
    trunk = [p for name, p in named if not name.startswith("fc.")]
    for parameter in trunk:
        parameter.requires_grad_(not options.head_only)  # before the optimizer is made
    optimizer = dathvd.DistributedOptimizer(
        torch.optim.SGD(
            [{"params": trunk, "lr": 0.001}, {"params": head, "lr": 0.01}], momentum=0.9
        ),
        named_parameters=named,
        compression=dathvd.Compression.fp16,
    )
    attack = PGD(LinfBall(8 / 255), step_size=4 / 255, num_steps=2)
    order = torch.Generator().manual_seed(0)
    for step in range(options.steps):
        batch = torch.randperm(len(labels), generator=order)[: options.batch_size]
        mine = batch[hvd.rank() :: hvd.size()]  # this worker's share
        adversarial = attack(model, images[mine], labels[mine], SampleNoise(step, mine))
        loss = nn.functional.cross_entropy(model(adversarial), labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hvd.rank() == 0:
            print(f"step {step + 1} of {options.steps}: loss {loss:.3f}", flush=True)


if __name__ == "__main__":
    main()
