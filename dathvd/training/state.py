"""All that a run carries from step to step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dathvd import checkpoint
from dathvd.attacks import build_attack
from dathvd.config import Config
from dathvd.distributed import PUBLISHED_BATCH_NORM, Exchanger, check_weights
from dathvd.objectives import ClassMeans
from dathvd.optim.exchanging import Exchanging
from dathvd.training.guard import Guard
from dathvd.training.step import Trainer

Saved = dict[str, Any]
"""Tensors and plain values, for ``torch.load(weights_only=True)``."""


@dataclass
class TrainingState:
    """A trainer, how far it has come, and what describes its network."""

    config: Config
    trainer: Trainer
    image_shape: tuple[int, int, int]
    num_classes: int
    step: int = 0
    guard: Guard | None = None
    """What watches for catastrophic overfitting, if anything."""
    origin: str | None = None
    """Where the first weights are from, in words; None for random ones."""
    take_statistics: Callable[[nn.Module], None] | None = None
    """Takes batch norm's statistics of averaged weights anew, a collective; None lets
    them be averages too."""
    _published: dict[str, nn.Module] = field(default_factory=dict)
    """This step's averages, whose statistics cost a pass over images."""
    _published_step: int = -1

    @property
    def exchanger(self) -> Exchanger:
        """What carries the optimizer's gradients."""
        optimizer = self.trainer.optimizer
        assert isinstance(optimizer, Exchanging)
        assert isinstance(optimizer.exchanger, Exchanger)
        return optimizer.exchanger

    @property
    def class_means(self) -> ClassMeans | None:
        """What the objective remembers of each class, if it remembers anything."""
        return self.trainer.objective.class_means

    def published_model(self) -> nn.Module:
        """A copy of the network for evaluation and saving, equal on all workers.

        Its batch-norm statistics are those of all workers' samples. A collective: every
        rank calls it. The network in training is left alone.
        """
        model = copy.deepcopy(self.trainer.model)
        PUBLISHED_BATCH_NORM[self.config.train.batch_norm](model)
        return model.eval()

    def published_averages(self) -> dict[str, nn.Module]:
        """Copies of the weights' averages for evaluation and saving, equal on all
        workers. A collective.

        Those that nothing has gone into yet are left out.
        """
        if self._published_step == self.step:
            return self._published
        published = {
            name: self._publish(average.network)
            for name, average in self.trainer.averages.items()
            if average.updates
        }
        if self.take_statistics is not None:
            self._published, self._published_step = published, self.step
        return published

    @property
    def best_average(self) -> str | None:
        """The name of the average that counts; None where there is none yet."""
        known = [name for name, each in self.trainer.averages.items() if each.updates]
        probed = {} if self.guard is None else self.guard.averages
        return max(known, key=lambda name: probed.get(name, -1.0), default=None)

    def _publish(self, average: nn.Module) -> nn.Module:
        model = copy.deepcopy(average)
        if self.take_statistics is not None:
            self.take_statistics(model)
        else:
            PUBLISHED_BATCH_NORM[self.config.train.batch_norm](model)
        return model.eval()

    def shared_dict(self, num_workers: int) -> Saved:
        """What all ranks share. A collective, as the published networks are."""
        model, averages = self.published_model(), self.published_averages()
        shared: Saved = {
            "step": self.step,
            "num_workers": num_workers,
            "config": self.config.model_dump_json(),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "model": model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
        }
        if averages:
            shared |= {name: each.state_dict() for name, each in averages.items()}
            shared["average_updates"] = {
                name: self.trainer.averages[name].updates for name in averages
            }
            shared["best_average"] = self.best_average
        if self.guard is not None:
            shared["guard"] = self.guard.state_dict()
        if self.class_means is not None:
            shared["class_means"] = self.class_means.means
        return shared

    def check(self) -> int:
        """Refuse to go on where workers differ in what they share. A collective.

        That is the weights, their moving average, and what the optimizer keeps: a wrong
        bit in a momentum would otherwise be saved by one worker and spread to all.

        Returns:
            A checksum of all that, equal on all ranks; 0 with one worker.

        Raises:
            ReplicasDiverged: on all ranks; names those that the majority disputes.
        """
        trainer = self.trainer
        averages = [
            weight
            for average in trainer.averages.values()
            for weight in average.network.parameters()
        ]
        kept = [
            value
            for parameter in trainer.model.parameters()
            for value in trainer.optimizer.state.get(parameter, {}).values()
            if isinstance(value, Tensor)
        ]
        return check_weights(trainer.model, f"step {self.step}", [*averages, *kept])

    def own_dict(self) -> Saved:
        """What differs between ranks, the sums for the next row of metrics included."""
        averages, memory = self.trainer.averages, self.class_means
        return {
            "class_sums": None if memory is None else memory.sums,
            "totals": self.trainer.totals.sums,
            "buffers": _buffers(self.trainer.model),
            "average_buffers": {
                name: _buffers(average.network) for name, average in averages.items()
            },
            "exchange": self.exchanger.state_dict(),
            "prepared": self.trainer.prepared,
        }

    def load_weights(self, shared: Saved, name: str) -> None:
        """Take over the network's weights.

        Raises:
            UserError: they are another network's; ``name`` is the file's.
        """
        checkpoint.load_weights(self.trainer.model, shared["model"], name)

    def load_shared_dict(self, shared: Saved) -> None:
        """Take over all else that ranks share."""
        trainer = self.trainer
        self._published_step = -1
        for name, average in trainer.averages.items():
            average.updates = checkpoint.average_updates(shared).get(name, 0)
            if average.updates:
                average.network.load_state_dict(shared[name])
        if self.guard is not None:
            self.guard.load_state_dict(shared["guard"])
            trainer.use_attack(build_attack(self.guard.attack()))
        if self.class_means is not None:
            self.class_means.means = shared["class_means"]
        trainer.optimizer.load_state_dict(shared["optimizer"])
        trainer.prepared = []  # images made before belong to another step's batches
        self.step = int(shared["step"])

    def load_own_dict(self, own: Saved, *, same_batches: bool) -> None:
        """Take over what this rank alone had, apart from what its exchange owes and
        the sums for the next row of metrics.

        Args:
            own: of this rank among as many workers as now.
            same_batches: whether the next step's batches are those that images were
                prepared for.
        """
        trainer = self.trainer
        trainer.model.load_state_dict(own["buffers"], strict=False)
        buffers = own.get("average_buffers", {"ema": own.get("ema_buffers", {})})
        for name, average in trainer.averages.items():
            average.network.load_state_dict(buffers[name], strict=False)
        if same_batches:
            device = trainer.totals.sums.device
            trainer.prepared = [images.to(device) for images in own["prepared"]]

    def load_totals(self, parts: Sequence[Saved]) -> None:
        """Take over the sums for the next row of metrics, and those of each class's
        predictions in this epoch, added up over ``parts``.

        All ranks together must be given each old rank's part once.
        """
        sums = self.trainer.totals.sums.zero_()
        for part in parts:
            sums += part["totals"].to(sums.device)
        if self.class_means is not None:
            self.class_means.sums = None
            for part in parts:
                if part["class_sums"] is not None:
                    self.class_means.add(part["class_sums"].to(sums.device))


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach() for name, buffer in model.named_buffers()}
