"""How well a contrastive network tells the views of test images apart."""

from __future__ import annotations

from torch import Tensor, nn

from dathvd.attacks import Attack, build_attack
from dathvd.attacks.attack import correct_on
from dathvd.config import AttackConfig, Config
from dathvd.data import Dataset, build_views
from dathvd.evaluation.accuracy import Accuracy
from dathvd.evaluation.judge import Judge, Probe
from dathvd.noise import SampleNoise
from dathvd.objectives import build_objective
from dathvd.runtime import Runtime


def evaluate_pairs(
    model: nn.Module, dataset: Dataset, config: Config, runtime: Runtime
) -> Accuracy:
    """Shares of test images whose two views find each other in their batch.

    Every rank calls it. The batches are the evaluation's, so its ``batch_size`` is part
    of the result's definition, and the number of workers is not.
    """
    settings = config.evaluation
    judge = Judge(
        dataset.test,
        runtime,
        batch_size=settings.batch_size,
        seed=config.seed,
        max_samples=settings.max_samples,
    )
    probes = {
        "clean": _finds_pairs(config, build_attack(AttackConfig(name="none"))),
        "attacked": _finds_pairs(config, build_attack(settings.attack)),
    }
    clean, robust = judge(model, probes).sum(dim=1).tolist()
    count = judge.num_samples
    return Accuracy(clean / count, robust / count, count)


def _finds_pairs(config: Config, attack: Attack) -> Probe:
    """Both views are nearest to each other, also under the attack."""
    _, views = build_views(config.data, config.objective)
    assert views is not None
    objective = build_objective(config.objective)

    def probe(
        model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        pairs = views.make(images, noise)
        partners = views.labels(len(images)).to(images.device)
        network = objective.attacked(model)
        each = noise.repeat(views.count)
        # not worst_case: without the others' views a survivor has no partner
        attacked = attack(network, pairs, partners, each)
        right = correct_on(network, attacked, partners)
        return right.view(-1, views.count).all(dim=1)

    return probe
