"""All that a run carries from step to step, and how it is saved and restored."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd import checkpoint, run_lock
from dathvd.attacks import build_attack
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed import (
    PUBLISHED_BATCH_NORM,
    DistributedOptimizer,
    Exchanger,
    broadcast_parameters,
    check_weights,
)
from dathvd.errors import UserError
from dathvd.runtime import Runtime, read_on_root, together
from dathvd.training.build import NamedParameters, build_training, first_model
from dathvd.training.guard import Guard
from dathvd.training.pretrained import initialise
from dathvd.training.step import Trainer


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

    @classmethod
    def create(
        cls, config: Config, dataset: Dataset, runtime: Runtime
    ) -> TrainingState:
        """A fresh network, equal on all workers, with its optimizer."""
        model = together(runtime, lambda: first_model(config, dataset))
        model = model.to(runtime.device)
        origin = initialise(model, config.model, runtime)

        def wrap(
            optimizer: torch.optim.Optimizer, named: NamedParameters
        ) -> torch.optim.Optimizer:
            return DistributedOptimizer(
                optimizer,
                named_parameters=named,
                compression=build_compressor(config.compression),
                exchange=config.compression.exchange,
                bucket_bytes=int(config.compression.bucket_megabytes * 1e6),
                max_skipped_in_a_row=config.compression.max_skipped_in_a_row,
                backward_passes_per_step=config.train.backward_passes_per_step,
                seed=config.seed,
            )

        trainer = build_training(
            config,
            model,
            runtime.device,
            rank=runtime.rank,
            wrap=wrap,
            share=broadcast_parameters,
        )
        return cls(
            config,
            trainer,
            dataset.image_shape,
            len(dataset.classes),
            origin=origin,
        )

    @property
    def exchanger(self) -> Exchanger:
        """What carries the optimizer's gradients."""
        exchanger = self.trainer.optimizer.exchanger  # type: ignore[attr-defined]
        assert isinstance(exchanger, Exchanger)
        return exchanger

    def published_model(self) -> nn.Module:
        """A copy of the network for evaluation and saving, equal on all workers.

        Its batch-norm statistics are those of all workers' samples. A collective: every
        rank calls it. The network in training is left alone.
        """
        return self._published(self.trainer.model)

    def published_average(self) -> nn.Module | None:
        """The same of the weights' moving average, if there is one. A collective."""
        average = self.trainer.average
        return None if average is None else self._published(average.network)

    def _published(self, network: nn.Module) -> nn.Module:
        model = copy.deepcopy(network)
        PUBLISHED_BATCH_NORM[self.config.train.batch_norm](model)
        return model.eval()

    def save(self, run: Path, runtime: Runtime) -> Path:
        """Write a checkpoint of this step; every rank calls it.

        Raises:
            UserError: on every rank, if any could not write, or if the workers hold
                different weights; nothing is left then.
        """
        check_weights(self.trainer.model, f"step {self.step}")
        final = checkpoint.checkpoint_folder(run, self.step)
        model, average = self.published_model(), self.published_average()
        shared = self._shared(model, average, runtime) if runtime.is_root else None
        own = self._own()
        together(runtime, run_lock.check_held)
        try:
            together(
                runtime,
                lambda: checkpoint.write_rank_files(final, shared, own, runtime.rank),
            )
        except UserError:
            checkpoint.discard_staging(final)
            raise
        keep = self.config.train.keep_checkpoints
        spare = self._good_checkpoint(run)
        together(
            runtime,
            lambda: checkpoint.publish(final, keep, spare) if runtime.is_root else None,
        )
        # hosts with a disk of their own still hold their part; on a shared one root's
        # turn has published all, though a cache may still show the staging folder
        elsewhere = runtime.local_rank == 0 and not run_lock.shares_root_disk()
        together(
            runtime,
            lambda: checkpoint.publish(final, keep, spare) if elsewhere else None,
        )
        return final

    def _good_checkpoint(self, run: Path) -> Path | None:
        """Where the guard would go back to."""
        if self.guard is None or not self.guard.rolls_back:
            return None
        return checkpoint.checkpoint_folder(run, self.guard.good_step)

    def answer_collapse(self, run: Path, runtime: Runtime) -> bool:
        """Do what the guard wants done; every rank calls it.

        Returns:
            Whether the state is now an earlier step's, later checkpoints being gone.
        """
        guard = self.guard
        assert guard is not None
        if not guard.may_act:
            return False
        actions, collapses = guard.actions + 1, guard.collapses
        good = self._good_checkpoint(run)
        if good is not None:
            self.restore(good, runtime)
            if runtime.local_rank == 0:
                checkpoint.discard_after(good)
        guard.actions, guard.collapses = actions, collapses
        self.trainer.use_attack(build_attack(guard.attack()))
        self.trainer.totals.sums.zero_()
        return good is not None

    def _shared(
        self, model: nn.Module, average: nn.Module | None, runtime: Runtime
    ) -> dict[str, Any]:
        shared = {
            "step": self.step,
            "num_workers": runtime.size,
            "config": self.config.model_dump_json(),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "model": model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
        }
        if average is not None and self.trainer.average is not None:
            shared["ema"] = average.state_dict()
            shared["ema_updates"] = self.trainer.average.updates
        if self.guard is not None:
            shared["guard"] = self.guard.state_dict()
        return shared

    def _own(self) -> dict[str, Any]:
        """What differs between ranks."""
        average = self.trainer.average
        return {
            "buffers": _buffers(self.trainer.model),
            "ema_buffers": {} if average is None else _buffers(average.network),
            "exchange": self.exchanger.state_dict(),
            "prepared": self.trainer.prepared,
        }

    def restore(self, folder: Path, runtime: Runtime) -> None:
        """Go on from a checkpoint; every rank calls it.

        Rank 0 alone needs to see ``model.pt``. With another number of workers the
        statistics start from their mean, and residuals are shared out anew.

        Raises:
            UserError: on every rank, if the checkpoint cannot be used.
        """
        shared = _read_shared(folder, runtime)
        same_size = shared["num_workers"] == runtime.size
        ranks = [runtime.rank] if same_size else range(shared["num_workers"])
        own = together(runtime, lambda: _read_ranks(folder, ranks))
        trainer = self.trainer
        trainer.prepared = []  # of the batches of another step
        together(
            runtime,
            lambda: checkpoint.load_weights(
                trainer.model, shared["model"], str(folder / "model.pt")
            ),
        )
        if trainer.average is not None:
            trainer.average.network.load_state_dict(shared["ema"])
            trainer.average.updates = int(shared["ema_updates"])
        if self.guard is not None:
            self.guard.load_state_dict(shared["guard"])
            trainer.use_attack(build_attack(self.guard.attack()))
        trainer.optimizer.load_state_dict(shared["optimizer"])
        self.exchanger.load_state_dict([part["exchange"] for part in own])
        if same_size:
            trainer.model.load_state_dict(own[0]["buffers"], strict=False)
            if trainer.average is not None:
                buffers = own[0]["ema_buffers"]
                trainer.average.network.load_state_dict(buffers, strict=False)
            saved = checkpoint.stored_config(shared, str(folder / "model.pt"))
            if same_batches(saved, self.config):
                trainer.prepared = [x.to(runtime.device) for x in own[0]["prepared"]]
        self.step = int(shared["step"])


def same_batches(one: Config, other: Config) -> bool:
    """Whether as many workers are given the same images and labels in every step."""

    def decides(config: Config) -> tuple[Any, ...]:
        train = config.train
        cut = (train.batch_size, train.backward_passes_per_step, train.guard)
        return (config.seed, config.data, config.objective.name, *cut)

    return decides(one) == decides(other)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.detach() for name, buffer in model.named_buffers()}


def _read_shared(folder: Path, runtime: Runtime) -> dict[str, Any]:
    """``model.pt``, read by rank 0 and sent to all."""
    name, data = read_on_root(runtime, lambda: folder / "model.pt")
    return together(runtime, lambda: checkpoint.load_bytes(data, name))


def _read_ranks(folder: Path, ranks: Iterable[int]) -> list[dict[str, Any]]:
    """What those ranks alone had saved."""
    return [checkpoint.load_file(folder / f"rank-{rank:05d}.pt") for rank in ranks]
