"""All that a run carries from step to step, and how it is saved and restored."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dathvd import checkpoint
from dathvd.attacks import build_attack
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed import (
    DistributedOptimizer,
    Exchanger,
    average_batch_norm,
    broadcast_parameters,
)
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.noise import mix_seed
from dathvd.objectives import build_objective
from dathvd.optim import build_optimizer
from dathvd.runtime import Runtime, read_on_root, together
from dathvd.training.step import Totals, Trainer

_WEIGHTS = 0x3E


@dataclass
class TrainingState:
    """A trainer, how far it has come, and what describes its network."""

    config: Config
    trainer: Trainer
    image_shape: tuple[int, int, int]
    num_classes: int
    step: int = 0

    @classmethod
    def create(
        cls, config: Config, dataset: Dataset, runtime: Runtime
    ) -> TrainingState:
        """A fresh network, equal on all workers, with its optimizer."""
        torch.manual_seed(mix_seed(config.seed, _WEIGHTS))
        model = build_model(
            config.model,
            image_shape=dataset.image_shape,
            num_classes=len(dataset.classes),
        ).to(runtime.device)
        broadcast_parameters(model)
        optimizer = DistributedOptimizer(
            build_optimizer(config.optimizer, list(model.named_parameters())),
            named_parameters=list(model.named_parameters()),
            compression=build_compressor(config.compression),
            exchange=config.compression.exchange,
            bucket_bytes=int(config.compression.bucket_megabytes * 1e6),
            max_skipped_in_a_row=config.compression.max_skipped_in_a_row,
            backward_passes_per_step=config.train.backward_passes_per_step,
            seed=config.seed,
        )
        trainer = Trainer(
            model.train(),
            build_attack(config.attack),
            build_objective(config.objective),
            optimizer,
            Totals.zero(runtime.device),
        )
        return cls(config, trainer, dataset.image_shape, len(dataset.classes))

    @property
    def exchanger(self) -> Exchanger:
        """What carries the optimizer's gradients."""
        exchanger = self.trainer.optimizer.exchanger  # type: ignore[attr-defined]
        assert isinstance(exchanger, Exchanger)
        return exchanger

    def averaged_model(self) -> nn.Module:
        """A copy of the network whose batch-norm statistics are the workers' mean.

        A collective: every rank calls it. The network in training is left alone.
        """
        model = copy.deepcopy(self.trainer.model)
        average_batch_norm(model)
        return model.eval()

    def save(self, run: Path, runtime: Runtime) -> Path:
        """Write a checkpoint of this step; every rank calls it.

        Raises:
            UserError: on every rank, if any could not write; nothing is left then.
        """
        final = checkpoint.checkpoint_folder(run, self.step)
        model = self.averaged_model()
        shared = self._shared(model, runtime) if runtime.is_root else None
        own = self._own()
        try:
            together(
                runtime,
                lambda: checkpoint.write_rank_files(final, shared, own, runtime.rank),
            )
        except UserError:
            checkpoint.discard_staging(final)
            raise
        keep = self.config.train.keep_checkpoints
        together(
            runtime,
            lambda: checkpoint.publish(final, keep) if runtime.is_root else None,
        )
        # hosts with a disk of their own still hold their part; on a shared one root's
        # turn has published all, and a second turn would remove it
        elsewhere = runtime.local_rank == 0 and not runtime.is_root
        together(
            runtime,
            lambda: (
                checkpoint.publish(final, keep)
                if elsewhere and checkpoint.staging_folder(final).exists()
                else None
            ),
        )
        return final

    def _shared(self, model: nn.Module, runtime: Runtime) -> dict[str, Any]:
        return {
            "step": self.step,
            "num_workers": runtime.size,
            "config": self.config.model_dump_json(),
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "model": model.state_dict(),
            "optimizer": self.trainer.optimizer.state_dict(),
        }

    def _own(self) -> dict[str, Any]:
        """What differs between ranks."""
        statistics = self.trainer.model.named_buffers()
        return {
            "buffers": {name: buffer.detach() for name, buffer in statistics},
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
        together(
            runtime,
            lambda: checkpoint.load_weights(
                trainer.model, shared["model"], str(folder / "model.pt")
            ),
        )
        trainer.optimizer.load_state_dict(shared["optimizer"])
        self.exchanger.load_state_dict([part["exchange"] for part in own])
        if same_size:
            trainer.model.load_state_dict(own[0]["buffers"], strict=False)
            trainer.prepared = [x.to(runtime.device) for x in own[0]["prepared"]]
        self.step = int(shared["step"])


def _read_shared(folder: Path, runtime: Runtime) -> dict[str, Any]:
    """``model.pt``, read by rank 0 and sent to all."""
    name, data = read_on_root(runtime, lambda: folder / "model.pt")
    return together(runtime, lambda: checkpoint.load_bytes(data, name))


def _read_ranks(folder: Path, ranks: Iterable[int]) -> list[dict[str, Any]]:
    """What those ranks alone had saved."""
    return [checkpoint.load_file(folder / f"rank-{rank:05d}.pt") for rank in ranks]
