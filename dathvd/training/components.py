"""The components that a configuration names, looked at before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from dathvd.attacks import build_attack
from dathvd.components import ATTACKS, REGISTRIES
from dathvd.compression import build_compressor
from dathvd.config import Config
from dathvd.objectives import build_objective
from dathvd.optim import build_optimizer
from dathvd.registry import is_foreign


def check_components(config: Config) -> None:
    """Import every component that a run needs, check its options, and make those that
    need neither data nor a network.

    Raises:
        UserError: one cannot be imported, does not take its options, or is not of its
            kind.
    """
    for registry in REGISTRIES:
        registry.check(getattr(config, registry.section))
    ATTACKS.check(config.evaluation.attack)
    build_attack(config.attack)
    build_attack(config.evaluation.attack)
    build_compressor(config.compression)
    build_objective(config.objective)
    build_optimizer(config.optimizer, [("weight", nn.Parameter(torch.zeros(1)))])


def ignored_options(config: Config) -> Iterator[str]:
    """A warning for each changed field that nothing chosen takes.

    Fields that no component names in its signature, such as those of attacks, are
    read from the section as a whole, and not looked at.
    """
    for registry in REGISTRIES:
        section = getattr(config, registry.section)
        if is_foreign(section.name):
            continue
        for field, described in type(section).model_fields.items():
            value = getattr(section, field)
            if value == described.default:
                continue
            names = [name for name in registry if field in registry.takes(name)]
            if names and section.name not in names:
                takers = " and ".join(
                    [", ".join(names[:-1]), names[-1]][len(names) < 2 :]
                )
                yield (
                    f"warning: {registry.section}.{field} {value} is for {takers}; "
                    f"{section.name} does not take it"
                )
    if not config.objective.has_classes:
        for field in ("erase", "rand_augment"):
            if value := getattr(config.data, field):
                yield (
                    f"warning: data.{field} {value} changes nothing: "
                    f"{config.objective.name} makes views of whole images"
                )
