"""The mean of an objective over several attacked images of each image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.objectives.objective import Objective, Terms, Wrapping


class Averaged(Wrapping):
    """An objective whose attack gives ``variants`` images of each image.

    The loss is the mean over them (AVG of Tramèr and Boneh, NeurIPS 2019); each has
    forward passes of its own, as each is a batch of its own. The attacked logits
    returned are, for each image, those of the variant that is least right.

    Args:
        objective: of one attacked image each.
        variants: at least 2.
    """

    def __init__(self, objective: Objective, variants: int) -> None:
        super().__init__(objective)
        self.variants = variants

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        adversarial: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
    ) -> Terms:
        """The wrapped objective's mean; ``adversarial``: ``[variants * batch, …]``."""
        variants = adversarial.view(self.variants, *images.shape)
        each = [
            self.objective(model, images, attacked, labels, weights)
            for attacked in variants
        ]
        loss = torch.stack([terms.loss for terms in each]).mean()
        attacked = [terms.adversarial_logits for terms in each]
        worst = _least_right([one for one in attacked if one is not None], labels)
        return Terms(loss, each[0].clean_logits, worst)

    def __repr__(self) -> str:
        return f"Averaged({self.objective}, variants={self.variants})"


def _least_right(logits: list[Tensor], labels: Tensor) -> Tensor | None:
    """For each image those logits ``[batch, classes]`` where its class counts least."""
    if not logits:
        return None
    every = torch.stack(logits).detach()
    classes = labels.argmax(dim=1) if labels.is_floating_point() else labels
    own = every.log_softmax(dim=2)[:, torch.arange(len(classes)), classes]
    return every[own.argmin(dim=0), torch.arange(len(classes))]
