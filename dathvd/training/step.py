"""One step of distributed adversarial training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dathvd.attacks import Attack
from dathvd.attacks.losses import classes_of
from dathvd.models import draws_from
from dathvd.noise import mix_seed
from dathvd.objectives import Objective, Terms
from dathvd.optim.exchanging import Exchanging
from dathvd.training.batches import Batch
from dathvd.training.ema import WeightAverage
from dathvd.training.undo import Backup

# what a network draws its own random numbers for
_ATTACK, _UPDATE = 0xA7, 0x0B


@dataclass
class Totals:
    """Sums over images since the last report, kept on the device."""

    sums: Tensor
    """Float64 ``[6]``: images, loss; right when clean, right under attack; images that
    the objective showed to the network clean, and under attack."""

    @classmethod
    def zero(cls, device: torch.device) -> Totals:
        """Sums with nothing counted yet."""
        return cls(torch.zeros(6, dtype=torch.float64, device=device))

    @torch.no_grad()
    def add(self, terms: Terms, labels: Tensor) -> None:
        """Count a batch; waits for nothing."""
        count = len(labels)
        self.sums[0] += count
        self.sums[1] += terms.loss.detach() * count
        for place, logits in enumerate((terms.clean_logits, terms.adversarial_logits)):
            if logits is not None:
                self.sums[2 + place] += (
                    logits.argmax(dim=1).eq(classes_of(labels)).sum()
                )
                self.sums[4 + place] += count


@dataclass
class Trainer:
    """The network with all that a step needs.

    One step of DAT (Zhang et al. 2022, Algorithm 1): every worker (1) attacks its own
    batch, (2) takes the gradient of its own objective there, (3) exchanges compressed
    gradients, which are averaged, (4) applies the same layer-wise adaptive update.

    A step whose mean gradient is not finite is skipped by all workers and leaves no
    trace: neither in the weights, the optimizer and what codecs owe, which its exchange
    sees to, nor in running statistics, averages, totals and adversarial images.
    """

    model: nn.Module
    attack: Attack
    objective: Objective
    optimizer: torch.optim.Optimizer
    totals: Totals
    averages: dict[str, WeightAverage] = field(default_factory=dict)
    """The weights' averages by name; those with a decay are updated by each step."""
    prepared: list[Tensor] = field(default_factory=list)
    """Adversarial images of the next step, made while gradients travelled."""
    rank: int = 0
    """This worker's rank, for random numbers that do not belong to samples."""
    mark: Callable[[str], None] = lambda phase: None
    """Called when a phase ends: "attack", "update" or "exchange" (for benchmarks)."""
    network: nn.Module | None = None
    """The model as training passes run it; None runs it as it is."""

    def __post_init__(self) -> None:
        self._attacked = self.objective.attacked(self.model)
        self._backup = Backup(self._spoilt_by_a_step)
        self.use_attack(self.attack)

    def use_attack(self, attack: Attack) -> None:
        """Make the adversarial images of later batches by this attack."""
        self.attack = attack
        if isinstance(self.optimizer, Exchanging):
            # an exchange of two collectives needs somebody to submit the second
            self.attack.between = self.optimizer.exchanger.poll

    def step(
        self,
        batches: Sequence[Batch],
        lr: float,
        following: Sequence[Batch] = (),
        seed: int = 0,
    ) -> None:
        """Train on this worker's batches of one step.

        Args:
            batches: one a backward pass; none if this worker's share is empty.
            lr: the learning rate.
            following: the next step's batches, to be attacked while this step's
                gradients travel; empty without overlap.
            seed: of the network's own random numbers in this step, equal on all ranks.
        """
        seed_generator(self.totals.sums.device, mix_seed(seed, self.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("rate_share", 1.0)
        self.optimizer.zero_grad()
        adversarial, self.prepared = self.prepared, []
        self._backup.take()
        remembered = self.objective.class_means
        for index, batch in enumerate(batches):
            # inner maximisation; sends nothing
            images = adversarial[index] if adversarial else self._attack(batch, seed)
            self.mark("attack")
            network = self.network or self.model
            self.objective.begin(batch.noise)
            with draws_from(batch.noise.reseeded(mix_seed(seed, _UPDATE))):
                terms = self.objective(
                    network, batch.images, images, batch.labels, batch.weights
                )
            # a full bucket's exchange starts inside backward
            (terms.loss * batch.share).backward()
            self.totals.add(terms, batch.labels)
            if remembered is not None and terms.clean_logits is not None:
                remembered.see(batch.labels, terms.clean_logits)
            self.mark("update")
        # gradients travel meanwhile
        self.prepared = [self._attack(batch, seed) for batch in following]
        self.mark("attack")
        self.optimizer.step()
        if self._was_skipped():
            self._undo(following, seed)
        else:
            self._keep()
        self.mark("exchange")

    def _was_skipped(self) -> bool:
        optimizer = self.optimizer
        return isinstance(optimizer, Exchanging) and optimizer.exchanger.last_skipped

    def _spoilt_by_a_step(self) -> dict[str, Tensor]:
        """What a forward pass changes, by name."""
        return {**dict(self.model.named_buffers()), "totals": self.totals.sums}

    def _keep(self) -> None:
        """Take the step that was made into what follows all steps."""
        for average in self.averages.values():
            if average.decay is not None:
                average.update()
        if self.objective.class_means is not None:
            self.objective.class_means.keep()

    def _undo(self, following: Sequence[Batch], seed: int) -> None:
        """Take back what the step did before its gradient was known."""
        self._backup.put_back()
        self.attack.undo()
        if self.objective.class_means is not None:
            self.objective.class_means.forget()
        # the images prepared meanwhile were made with statistics now taken back
        self.prepared = [self._attack(batch, seed) for batch in following]

    def _attack(self, batch: Batch, seed: int) -> Tensor:
        if len(batch.images) == 0:
            return batch.images
        with draws_from(batch.noise.reseeded(mix_seed(seed, _ATTACK))):
            return self.attack(self._attacked, batch.images, batch.labels, batch.noise)


def seed_generator(device: torch.device, seed: int) -> None:
    """Seed torch's generator of that device: cheap enough for every step."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
