"""Adversarial training of your own network in your own loop, in a few lines more.

Alone, or with as many workers as there are::

    python examples/training_script.py
    horovodrun -np 2 python examples/training_script.py --codec int8

Every worker attacks and trains on its own share of each batch; the distributed
optimizer averages the gradients, compressed.
"""

from __future__ import annotations

import argparse

import horovod.torch as hvd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import dathvd
from dathvd.attacks import PGD, LinfBall
from dathvd.compression import COMPRESSORS
from dathvd.noise import SampleNoise


def digits() -> tuple[Tensor, Tensor]:
    """Images ``[1797, 1, 8, 8]`` in [0, 1] and labels, in a fixed random order."""
    bunch = load_digits()
    order = torch.randperm(
        len(bunch.target), generator=torch.Generator().manual_seed(0)
    )
    images = torch.tensor(bunch.images, dtype=torch.float32).div(16).unsqueeze(1)
    return images[order], torch.tensor(bunch.target)[order]


def network() -> nn.Module:
    """A small convolutional network; the same weights on every worker."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def main() -> None:
    """Train for some steps, then tell clean and robust accuracy on held-out digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", default="int8", choices=sorted(COMPRESSORS))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128, help="over all workers")
    options = parser.parse_args()

    hvd.init()
    images, labels = digits()
    train_images, train_labels = images[:1400], labels[:1400]
    model = network()
    optimizer = dathvd.DistributedOptimizer(
        torch.optim.Adam(model.parameters(), lr=3e-3),
        named_parameters=model.named_parameters(),
        compression=COMPRESSORS[options.codec],
    )
    attack = PGD(LinfBall(0.15), step_size=0.06, num_steps=5)
    order = torch.Generator().manual_seed(1)
    for step in range(options.steps):
        batch = torch.randperm(1400, generator=order)[: options.batch_size]
        mine = batch[hvd.rank() :: hvd.size()]  # this worker's share
        adversarial = attack(
            model, train_images[mine], train_labels[mine], SampleNoise(step, mine)
        )
        loss = nn.functional.cross_entropy(model(adversarial), train_labels[mine])
        optimizer.zero_grad()
        loss.backward()  # gradients travel from here
        optimizer.step()  # until here

    held_out = torch.arange(1400, 1797)
    adversarial, robust = attack.worst_case(
        model, images[held_out], labels[held_out], SampleNoise(0, held_out)
    )
    clean = model(images[held_out]).argmax(dim=1).eq(labels[held_out])
    if hvd.rank() == 0:
        print(f"clean {clean.float().mean():.1%}, robust {robust.float().mean():.1%}")


if __name__ == "__main__":
    main()
