"""From a configuration to an objective."""

from __future__ import annotations

from collections.abc import Callable

from dathvd.config.objective import ObjectiveConfig
from dathvd.errors import choose
from dathvd.objectives.contrastive import Contrastive, Gather
from dathvd.objectives.mart import Mart
from dathvd.objectives.objective import Objective
from dathvd.objectives.perturbed import WeightPerturbed
from dathvd.objectives.supervised import Adversarial, Plain
from dathvd.objectives.trades import Trades


def _adversarial(config: ObjectiveConfig) -> Objective:
    return Adversarial(
        clean_weight=config.clean_weight, label_smoothing=config.label_smoothing
    )


OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "adversarial": _adversarial,
    "rotation": _adversarial,  # its labels are the quarter turns
    "plain": lambda config: Plain(label_smoothing=config.label_smoothing),
    "trades": lambda config: Trades(
        beta=config.beta, label_smoothing=config.label_smoothing
    ),
    "mart": lambda config: Mart(
        beta=config.beta, label_smoothing=config.label_smoothing
    ),
    "contrastive": lambda config: Contrastive(
        temperature=config.temperature, clean_weight=config.clean_weight
    ),
}


def build_objective(config: ObjectiveConfig, gather: Gather | None = None) -> Objective:
    """The objective of that configuration.

    Args:
        config: the objective.
        gather: brings all workers' rows together; None where there is one worker.
    """
    objective = choose("objective.name", config.name, OBJECTIVES)(config)
    if isinstance(objective, Contrastive) and gather is not None:
        objective.gather = gather
    if config.weight_perturbation:
        return WeightPerturbed(objective, gamma=config.weight_perturbation)
    return objective
