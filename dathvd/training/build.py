"""From a configuration to the trainer of one worker: the product's, and benchmarks'.

Nothing here needs Horovod until several workers share a network's passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dathvd.attacks import build_attack
from dathvd.components import OBJECTIVES
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.errors import UserError
from dathvd.models import build_model, freeze_trunk
from dathvd.noise import mix_seed
from dathvd.objectives import Averaged, GradAligned, build_objective
from dathvd.optim import build_optimizer
from dathvd.optim.clipping import clipping
from dathvd.optim.depth import depths
from dathvd.training.ema import WeightAverage
from dathvd.training.passes import lay_out, training_pass
from dathvd.training.recompute import find_blocks
from dathvd.training.step import Totals, Trainer

_WEIGHTS = 0x3E

NamedParameters = list[tuple[str, nn.Parameter]]
Wrap = Callable[[torch.optim.Optimizer, NamedParameters], torch.optim.Optimizer]
"""Makes an optimizer exchange its gradients with the other workers'."""


def first_model(config: Config, dataset: Dataset) -> nn.Module:
    """A network with its first weights, which the seed decides.

    Raises:
        UserError: it cannot be made, or does not fit the data.
    """
    torch.manual_seed(mix_seed(config.seed, _WEIGHTS))
    return build_model(config.model, dataset.image_shape, len(dataset.classes))


def build_training(
    config: Config,
    model: nn.Module,
    device: torch.device,
    *,
    rank: int = 0,
    wrap: Wrap | None = None,
    share: Callable[[nn.Module], None] | None = None,
    helper: nn.Module | None = None,
) -> Trainer:
    """The trainer of one worker: all that a step of this configuration needs.

    Args:
        config: attack, objective, optimizer, batch norm, averages, precision.
        model: the network with its first weights.
        device: where it trains.
        rank: this worker's.
        wrap: what the optimizer exchanges gradients by; None for a worker that is
            alone, whose samples are all that batch norm and contrasts can see.
        share: makes the first weights equal on all workers; None where they are.
        helper: the network of ``objective.helper``.
    """
    model = model.to(device)
    gathered: dict[str, Any] = {}
    if wrap is not None and _meets_others(config):
        from dathvd.distributed import gather_rows, synchronise_batch_norm

        gathered["gather"] = gather_rows
        if config.train.batch_norm == "synchronised":
            model = synchronise_batch_norm(model)
    if config.model.init_mode == "linear":
        freeze_trunk(model)  # the layers put in just now are frozen too
    lay_out(model, config.train)
    if share is not None:
        share(model)
    named = list(model.named_parameters())
    optimizer = build_optimizer(config.optimizer, named, _depths(config, model))
    if wrap is None:
        clip = clipping(
            [weight for _, weight in named], config.optimizer.max_gradient_norm
        )
        optimizer.register_step_pre_hook(lambda *call: clip())
    attack = build_attack(config.attack)
    objective = build_objective(config.objective, helper_network=helper, **gathered)
    if attack.variants > 1:
        objective = Averaged(objective, attack.variants)
    passes = config.train
    if config.objective.grad_align:
        weight, epsilon = config.objective.grad_align, config.attack.epsilon
        objective = GradAligned(objective, weight=weight, epsilon=epsilon)
        # minimal filtering has no second derivative
        passes = passes.model_copy(update={"winograd": False})
    model.train()
    averages = config.train.averages
    return Trainer(
        model,
        attack,
        objective,
        optimizer if wrap is None else wrap(optimizer, named),
        Totals.zero(device),
        {name: WeightAverage(model, decay) for name, decay in averages.items()},
        rank=rank,
        network=training_pass(model, passes),
    )


def _depths(config: Config, model: nn.Module) -> dict[str, int] | None:
    """How deep each weight lies, where the rate decays with it.

    Raises:
        UserError: the network is no sequence of blocks.
    """
    if config.optimizer.layer_decay == 1.0:
        return None
    blocks = set(find_blocks(model))
    names = [name for name, module in model.named_modules() if module in blocks]
    if not names:
        raise UserError(
            f"optimizer.layer_decay: {config.model.name} has no blocks in a Sequential "
            "to tell depths by; set it to 1"
        )
    return depths([name for name, _ in model.named_parameters()], names)


def _meets_others(config: Config) -> bool:
    """Whether workers meet within a network's passes, beside the gradients."""
    synchronised = config.train.batch_norm == "synchronised"
    return synchronised or OBJECTIVES.wants(config.objective, "gather")
