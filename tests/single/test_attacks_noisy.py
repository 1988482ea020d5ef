"""N-FGSM: its closed form, its noise, and where it may not be used."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import build_attack
from dathvd.config import AttackConfig, load_config
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from dathvd.optim import build_optimizer

EPSILON = 0.1


def attacked(images: Tensor, norm: str = "linf", **options: float) -> Tensor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    fields = {"name": "n_fgsm", "epsilon": EPSILON, "norm": norm, "options": options}
    attack = build_attack(AttackConfig.model_validate(fields))
    noise = SampleNoise(1, torch.arange(len(images)))
    labels = torch.arange(len(images)) % 3
    return attack(model, images, labels, noise)


def test_it_leaves_the_ball_by_noise_and_a_step_and_no_further() -> None:
    images = torch.full((64, 1, 3, 4), 0.5)
    for spread in (1.0, 2.0):
        change = (attacked(images, spread=spread) - images).abs()
        assert float(change.max()) <= (1 + spread) * EPSILON + 1e-6
        assert float(change.max()) > (0.9 + spread) * EPSILON, "not clipped to the ball"


def test_without_the_step_what_is_left_is_uniform_noise() -> None:
    images = torch.full((2000, 1, 3, 4), 0.5)
    change = attacked(images) - images
    # a step of ±epsilon on noise of ±2 epsilon: variance (4 / 3 + 1) epsilon², as the
    # gradient's sign at a linear network hardly depends on the noise
    assert float(change.var()) == pytest.approx((4 / 3 + 1) * EPSILON**2, rel=0.06)


def test_images_stay_in_the_box_and_as_they_were() -> None:
    images = torch.rand(16, 1, 3, 4, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    for norm in ("linf", "l2"):
        moved = attacked(images, norm)
        assert 0 <= float(moved.min()) and float(moved.max()) <= 1
    assert torch.equal(images, before)


def test_it_judges_nothing_and_takes_trades_loss() -> None:
    with pytest.raises(UserError, match="n_fgsm leaves the ball"):
        load_config(None, ["evaluation.attack.name=n_fgsm"])
    config = load_config(None, ["attack.name=n_fgsm", "objective.name=trades"])
    assert config.attack.loss == "kl"


def test_nesterov_is_torchs() -> None:
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
    sets = ["optimizer.name=sgd", "optimizer.options.nesterov=true"]
    config = load_config(None, [*sets, "optimizer.weight_decay=0.01"]).optimizer
    ours = build_optimizer(config, [("w", weights[0])])
    for group in ours.param_groups:
        group["lr"] = 0.1
    theirs = torch.optim.SGD(
        [weights[1]], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True
    )
    for step in range(4):
        for weight, optimizer in zip(weights, (ours, theirs), strict=True):
            weight.grad = torch.tensor([1.0, -2.0, step])
            optimizer.step()
    assert torch.equal(weights[0], weights[1])
    with pytest.raises(UserError, match="nesterov: needs optimizer.momentum above 0"):
        config = load_config(None, [*sets, "optimizer.momentum=0.0"]).optimizer
        build_optimizer(config, [("w", weights[0])])
