"""How far the weights are from a first-order stationary point of the objective.

What the convergence theorem of DAT bounds (Zhang et al., UAI 2022) is the mean over
steps of |grad F|², F(w) being the mean over training images of the objective on their
worst cases. A sample's mean gradient is no measure of it: the square of its length is
too large by its variance, which is all that is left near a stationary point. Products
of different groups' gradients have no such part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dathvd import heartbeat
from dathvd.attacks import build_attack
from dathvd.config import AttackConfig, Config
from dathvd.config.stationarity import MIN_GROUPS
from dathvd.noise import mix_seed
from dathvd.objectives import Objective
from dathvd.runtime import Runtime, sum_over_workers
from dathvd.training.batches import Batch, BatchPlan

_SAMPLE = 0x57  # seeds of different uses must differ


@dataclass(frozen=True)
class Estimate:
    """A squared length and its standard error."""

    value: float
    """Below 0 at times, as an unbiased estimate of something near 0 must be."""
    error: float

    def numbers(self) -> dict[str, float]:
        """What a row of metrics says of it."""
        return {
            "gradient_norm_squared": self.value,
            "gradient_norm_squared_error": self.error,
        }


@dataclass(frozen=True)
class Stationarity:
    """Estimates |grad F|² at the weights of any step, always on the same sample.

    The network is in eval mode: a fixed function of weights and running statistics,
    which is what is published. Where batch norm normalises by a batch's own statistics
    in training, that is another function than training minimises.
    """

    config: Config
    plan: BatchPlan
    """Of training, whose images, augmentation and weights of images the sample has."""
    runtime: Runtime

    def is_due(self, step: int) -> bool:
        """Whether the weights after so many steps are measured."""
        return step > 0 and step % self.config.train.stationarity.every == 0

    def __call__(self, model: nn.Module, objective: Objective) -> Estimate | None:
        """The estimate; None where a gradient is not finite. A collective.

        Args:
            model: in eval mode, equal on all workers; left without gradients.
            objective: the run's.
        """
        attack = build_attack(worst_case_attack(self.config))
        pairs: list[tuple[Batch, Tensor]] = []
        for batch in self._groups():
            heartbeat.beat(heartbeat.EVALUATING)
            seen = objective.attacked(model)
            images = attack(seen, batch.images, batch.labels, batch.noise)
            pairs.append((batch, images))

        def gradients() -> Iterator[Tensor]:
            for batch, images in pairs:
                heartbeat.beat(heartbeat.EVALUATING)
                yield gradient(model, objective, batch, images)

        # they are computed twice, as all of them at once may not fit into memory
        total = _sum(gradients(), model)
        heartbeat.rest()  # others may have more to do
        total = sum_over_workers(self.runtime, total, "stationarity.gradient")
        products = self._together(_products(gradients(), total))
        heartbeat.rest()
        if not bool(products.isfinite().all()):
            return None
        return squared_length(float(total.square().sum()), *products)

    @property
    def _num_groups(self) -> int:
        settings = self.config.train.stationarity
        return settings.num_samples // settings.group_size

    def _groups(self) -> Iterator[Batch]:
        """This worker's groups of the sample, which go round robin to the workers."""
        settings = self.config.train.stationarity
        seed = mix_seed(self.config.seed, _SAMPLE)
        places = self.plan.sample(settings.num_samples, seed)
        draws = torch.arange(settings.num_samples)
        groups = torch.stack([places, draws]).view(2, self._num_groups, -1)
        mine = groups[:, self.runtime.rank :: self.runtime.size]
        for images, ids in zip(*mine, strict=True):
            yield self.plan.draw(images, ids)

    def _together(self, own: Tensor) -> Tensor:
        """Every group's column, ``[2, groups]``, of this worker's."""
        everyone = torch.zeros(2, self._num_groups, dtype=torch.float64)
        everyone[:, self.runtime.rank :: self.runtime.size] = own
        return sum_over_workers(self.runtime, everyone, "stationarity.products")


def stationarity_of(
    config: Config, plan: BatchPlan, runtime: Runtime
) -> Stationarity | None:
    """What estimates are made by in a run; None where it makes none."""
    wanted = config.train.stationarity.every > 0
    return Stationarity(config, plan, runtime) if wanted else None


def worst_case_attack(config: Config) -> AttackConfig:
    """A strong PGD in the training attack's ball, of the loss that it maximises."""
    settings, attack = config.train.stationarity, config.attack
    return attack.pgd(
        settings.num_steps,
        restarts=settings.restarts,
        loss=attack.loss,
        combine=attack.combine,
    )


def gradient(
    model: nn.Module, objective: Objective, batch: Batch, adversarial: Tensor
) -> Tensor:
    """The mean loss's gradient in all weights that are trained, a float64 vector."""
    weights = _trained(model)
    objective.begin(batch.noise)
    terms = objective(model, batch.images, adversarial, batch.labels, batch.weights)
    found = torch.autograd.grad(terms.loss, weights, allow_unused=True)
    parts = [
        torch.zeros_like(weight) if each is None else each
        for weight, each in zip(weights, found, strict=True)
    ]
    return torch.cat([part.flatten() for part in parts]).double()


def squared_length(total: float, squares: Tensor, products: Tensor) -> Estimate:
    """The mean of G_i · G_j over all i ≠ j, and its jackknife error.

    The U-statistic of order two (Hoeffding, 1948): where the K vectors G_k are
    independent with mean m, its expectation is |m|². The jackknife's variance is not
    too small on average (Efron and Stein, 1981).

    Args:
        total: |sum G_k|².
        squares: |G_k|², float64 ``[K]``, K at least 3.
        products: G_k · sum G_j, float64 ``[K]``.
    """
    count = len(squares)
    assert count >= MIN_GROUPS
    value = (total - float(squares.sum())) / (count * (count - 1))
    # what is left of |sum|² - sum of squares without the pairs of one of them
    pairs = total - squares.sum() - 2 * (products - squares)
    without = pairs / ((count - 1) * (count - 2))
    spread = (without - without.mean()).square().sum() * (count - 1) / count
    return Estimate(value, float(spread.sqrt()))


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def _sum(vectors: Iterator[Tensor], model: nn.Module) -> Tensor:
    """Their sum; zeros of the same length where there are none."""
    weights: Sequence[Tensor] = _trained(model)
    length = sum(weight.numel() for weight in weights)
    total = torch.zeros(length, dtype=torch.float64, device=weights[0].device)
    for vector in vectors:
        total += vector
    return total


def _products(vectors: Iterator[Tensor], total: Tensor) -> Tensor:
    """Each one's square and its product with the total, ``[2, vectors]``."""
    found = [
        torch.stack([vector @ vector, vector @ total.to(vector.device)]).cpu()
        for vector in vectors
    ]
    return torch.stack(found, dim=1) if found else torch.zeros(2, 0)
