"""The makers of objectives: a configuration becomes an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from dathvd.components import OBJECTIVES as _OBJECTIVES
from dathvd.config.objective import ObjectiveConfig
from dathvd.objectives.contrastive import Gather, own_rows
from dathvd.objectives.objective import Objective
from dathvd.objectives.perturbed import WeightPerturbed

OBJECTIVES: Mapping[str, Callable[..., Objective]] = _OBJECTIVES
"""Makers of objectives by name; their places are in ``dathvd.components``."""


def build_objective(
    config: ObjectiveConfig,
    gather: Gather = own_rows,
    helper_network: nn.Module | None = None,
) -> Objective:
    """The objective of that configuration.

    Args:
        config: the objective.
        gather: brings all workers' rows together; by default there is one worker.
        helper_network: of ``objective.helper``; None where it is only looked at.

    Raises:
        UserError: it lies elsewhere and cannot be imported or made.
    """
    objective: Objective = _OBJECTIVES.build(
        config, gather=gather, helper_network=helper_network
    )
    if config.weight_perturbation:
        return WeightPerturbed(objective, gamma=config.weight_perturbation)
    return objective
