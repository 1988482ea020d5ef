"""From a configuration to an objective."""

from __future__ import annotations

from collections.abc import Callable

from dathvd.config.objective import ObjectiveConfig
from dathvd.errors import choose
from dathvd.objectives.mart import Mart
from dathvd.objectives.objective import Objective
from dathvd.objectives.perturbed import WeightPerturbed
from dathvd.objectives.supervised import Adversarial, Plain
from dathvd.objectives.trades import Trades

OBJECTIVES: dict[str, Callable[[ObjectiveConfig], Objective]] = {
    "adversarial": lambda config: Adversarial(
        clean_weight=config.clean_weight, label_smoothing=config.label_smoothing
    ),
    "plain": lambda config: Plain(label_smoothing=config.label_smoothing),
    "trades": lambda config: Trades(
        beta=config.beta, label_smoothing=config.label_smoothing
    ),
    "mart": lambda config: Mart(
        beta=config.beta, label_smoothing=config.label_smoothing
    ),
}


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective of that configuration."""
    objective = choose("objective.name", config.name, OBJECTIVES)(config)
    if config.weight_perturbation:
        return WeightPerturbed(objective, gamma=config.weight_perturbation)
    return objective
