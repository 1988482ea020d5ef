"""Averages of a network's weights: exponential moving ones (EMA), and plain means."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """The mean of a network's weights after each update.

    After t updates with decay d it is ``sum_i d^(t-i) w_i / sum_i d^(t-i)``, i = 1 … t:
    an average with an exponential window, and Adam's correction of its start at zero
    (Kingma and Ba, ICLR 2015, section 3). So nothing of the random first weights is in
    it, and the decay needs no warm-up. Its gain in robust training: Rebuffi et al.,
    Data Augmentation Can Improve Robustness, NeurIPS 2021, section 3. Without a decay
    all weights count alike: stochastic weight averaging, updated at the ends of epochs
    (Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018; in robust
    training Chen et al., Robust Overfitting May Be Mitigated, ICLR 2021).

    Running statistics of batch norm are averaged by the same formula on each worker,
    and then treated like the network's own (``train.batch_norm``) before evaluation
    and saving, or taken anew (``train.average_batch_norm``). Buffers of integers are
    copied.

    Args:
        model: what is averaged; its tensors must stay where they are.
        decay: in (0, 1); None weighs all updates alike.
    """

    def __init__(self, model: nn.Module, decay: float | None) -> None:
        self.decay = decay
        self.updates = 0
        """Updates so far."""
        self.network = copy.deepcopy(model).requires_grad_(False)
        """A network of the averages."""
        pairs = list(zip(_tensors(self.network), _tensors(model), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights; waits for nothing."""
        self.updates += 1
        share = 1 / self.updates
        if self.decay is not None:
            share = (1 - self.decay) / (1 - self.decay**self.updates)
        means, weights = (list(side) for side in zip(*self._floats, strict=True))
        torch._foreach_lerp_(means, weights, share)
        for mean, weight in self._others:
            mean.copy_(weight)


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
