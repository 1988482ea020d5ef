"""Clean and robust accuracy under one attack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from dathvd.attacks import Attack, NoAttack, build_attack
from dathvd.attacks.probes import Probe, survives
from dathvd.config import AttackConfig
from dathvd.data import ImageSet
from dathvd.evaluation.judge import CLEAN, Judge
from dathvd.evaluation.store import Store
from dathvd.runtime import Runtime


@dataclass(frozen=True)
class Accuracy:
    """Shares of correctly classified samples, in [0, 1]."""

    clean: float
    robust: float
    num_samples: int


def evaluate(
    model: nn.Module,
    images: ImageSet,
    attack_config: AttackConfig,
    *,
    runtime: Runtime,
    batch_size: int,
    seed: int,
    max_samples: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
    store: Store | None = None,
    right_under: Callable[[Attack], Probe] = survives,
) -> Accuracy:
    """Clean accuracy, and accuracy on the worst example of all restarts.

    A sample counts as robust if it is right on the clean image and on the adversarial
    image of every restart.

    Args:
        model: from images in [0, 1] to logits; used in eval mode.
        images: the test set, equal on all workers.
        attack_config: the attack.
        runtime: this worker's place.
        batch_size: images at once; part of the result's definition only by rounding.
        seed: of the random starts.
        max_samples: use the first so many samples; 0 uses all.
        on_batch: called with (parts done here, parts of this worker).
        store: keeps what is judged under this attack, and gives back what was before.
        right_under: makes the probe of what counts as right under an attack.
    """
    judge = Judge(
        images,
        runtime,
        batch_size=batch_size,
        seed=seed,
        max_samples=max_samples,
        on_part=on_batch,
        store=store,
    )
    attacks = {CLEAN: NoAttack(), "attacked": build_attack(attack_config)}
    probes = {name: right_under(attack) for name, attack in attacks.items()}
    clean, robust = judge(model, probes).sum(dim=1).tolist()
    count = judge.num_samples
    return Accuracy(clean / count, robust / count, count)
