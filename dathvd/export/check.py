"""Whether an export gives what the network gives, on real test images."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dathvd.errors import UserError
from dathvd.export.form import Function, Trained
from dathvd.tasks import load_task

NUM_IMAGES = 64
"""Images that are compared: the first of the test set."""
TOLERANCE = 1e-4
"""Of the largest logit, or of 1 where that is larger."""


@dataclass(frozen=True)
class Difference:
    """How far two networks' logits are apart."""

    num_images: int
    largest: float
    """Largest absolute difference of two logits."""
    scale: float
    """Largest absolute logit of the run's own network."""
    same_class: int
    """Images that both put into the same class."""

    @property
    def is_small(self) -> bool:
        """Whether rounding explains it; never where a value is not a number."""
        return self.largest <= TOLERANCE * max(1.0, self.scale)

    def __str__(self) -> str:
        return (
            f"largest difference on {self.num_images} test images: "
            f"{self.largest:.2g} (logits up to {self.scale:.3g}); "
            f"{self.same_class} of {self.num_images} in the same class"
        )


@torch.no_grad()
def compare(trained: Trained, exported: Function) -> Difference:
    """Run both on the first test images: one of them alone, then the others at once.

    Raises:
        UserError: the test set cannot be read, or the images do not fit the network.
    """
    test = load_task(trained.config, extra=False).test
    indices = torch.arange(min(NUM_IMAGES, len(test)))
    images = test.batch(indices).float() / 255
    if tuple(images.shape[1:]) != trained.image_shape:
        raise UserError(
            f"--check: test images are {tuple(images.shape[1:])}, the network takes "
            f"{trained.image_shape}"
        )
    parts = [part for part in (images[:1], images[1:]) if len(part)]
    own = torch.cat([trained.model(part) for part in parts])
    other = torch.cat([exported(part) for part in parts])
    return Difference(
        len(images),
        float((own - other).abs().max()),
        float(own.abs().max()),
        int((own.argmax(dim=1) == other.argmax(dim=1)).sum()),
    )
