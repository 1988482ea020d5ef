"""A training step makes the host wait for the device once: for the finite gradients.

The step runs on torch's meta device, which holds shapes and no values, so that nothing
that needs a value can escape notice.
"""

from __future__ import annotations

import horovod.torch as hvd
import pytest
import torch

from dathvd.benchmark.step.trainers import (
    batch_plan,
    build_trainer,
    synthetic_data,
)
from dathvd.compression import COMPRESSORS
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.distributed import DistributedOptimizer, synchronise_batch_norm
from dathvd.training.ema import WeightAverage
from tests.host_reads import META, HostReads

DECISION = "distributed/provisional.py:read"
SMALL = [
    "model.name=small_resnet", "model.width=8", "train.batch_size=8",
    "attack.num_steps=2",
]  # fmt: skip
VARIANTS = {
    "default": [],
    "fgsm_rs": ["attack.name=fgsm_rs"],
    "apgd": ["attack.name=apgd", "attack.restarts=2"],
    "free": ["attack.name=free", "attack.replays=2"],
    "l2 with momentum": ["attack.norm=l2", "attack.momentum=0.9"],
    "restarts and early stop": ["attack.restarts=2", "attack.early_stop=true"],
    "targeted margin": ["attack.target=random", "attack.loss=margin"],
    "in train mode": ["attack.model_mode=train"],
    "trades": ["objective.name=trades", "attack.loss=kl", "attack.start=gaussian"],
    "mart, perturbed": ["objective.name=mart", "objective.weight_perturbation=0.01"],
    "contrastive": ["objective.name=contrastive"],
    "passes": ["train.backward_passes_per_step=2"],
    "sgd": ["optimizer.name=sgd"],
    "lars": ["optimizer.name=lars"],
    "adamw": ["optimizer.name=adamw"],
}


@pytest.fixture(scope="module", autouse=True)
def one_worker() -> None:
    hvd.init()


def recorded(config: Config, codec: str = "none", exchange: str = "auto") -> HostReads:
    """What the second of two steps did, with batches and moving average."""
    config = synthetic_data(config, num_images=24)
    dataset = load_dataset(config.data)

    def wrap(
        optimizer: torch.optim.Optimizer, named: list[tuple[str, torch.nn.Parameter]]
    ) -> torch.optim.Optimizer:
        return DistributedOptimizer(
            optimizer,
            named,
            COMPRESSORS[codec],
            exchange,
            config.train.backward_passes_per_step,
            bucket_bytes=20_000,
        )

    trainer = build_trainer(config, dataset, META, wrap)
    trainer.averages["ema"] = WeightAverage(trainer.model, 0.9)
    plan = batch_plan(config, dataset, META)
    batches = list(plan.step(0))
    with HostReads():
        trainer.step(batches, lr=0.01)
    found = HostReads()
    with found:
        following = list(plan.step(1))
        for _ in range(trainer.attack.replays):
            trainer.step(
                batches, 0.01, following if trainer.attack.replays == 1 else []
            )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_one_read_a_step(name: str) -> None:
    config = load_config(None, [*SMALL, *VARIANTS[name]])
    found = recorded(config)
    assert found.reads == [DECISION] * config.attack.replays
    assert found.blocking_copies == []


def test_synchronised_batch_norm_reads_nothing_itself() -> None:
    # with several workers its collectives wait, as documented
    layer = synchronise_batch_norm(torch.nn.BatchNorm2d(3)).to(META)
    images = torch.empty(2, 3, 4, 4, device=META, requires_grad=True)
    found = HostReads()
    with found:
        layer(images).sum().backward()
    assert found.reads == [] and found.blocking_copies == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "codec,exchange",
    [(name, way) for name, codec in COMPRESSORS.items() for way in codec.exchanges],
)
def test_codecs_read_nothing(codec: str, exchange: str) -> None:
    found = recorded(load_config(None, SMALL), codec, exchange)
    assert found.reads == [DECISION]
    assert found.blocking_copies == []


def test_what_waits_is_recorded() -> None:
    # the recorder itself, on calls that wait and that do not
    from dathvd.attacks.attack import correct_on
    from dathvd.attacks.balls import LinfBall
    from dathvd.attacks.pgd import PGD
    from dathvd.devices import to_device
    from dathvd.noise import SampleNoise
    from dathvd.runtime import Runtime, sum_over_workers

    runtime = Runtime(0, 1, 0, 1, META, "mpi", 1)
    model = torch.nn.Linear(3, 4).to(META)
    images = torch.empty(2, 3, device=META)
    labels = torch.empty(2, dtype=torch.int64, device=META)
    found = HostReads()
    with found:
        correct_on(model, images, labels)
        to_device(torch.zeros(2), META)
        assert not found.reads and not found.blocking_copies
        sum_over_workers(runtime, images, "x")
        torch.testing.assert_close(1, 1)
        assert found.reads == ["runtime.py:sum_over_workers"]
        attack = PGD(LinfBall(0.1), step_size=0.1, num_steps=1)
        with pytest.raises(NotImplementedError, match="nonzero"):
            attack.worst_case(model, images, labels, SampleNoise(0, labels))
    assert found.reads[1:] == ["attacks/attack.py:on_survivors"]
