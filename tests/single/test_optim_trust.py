"""The trust ratio in closed form."""

import torch

from dathvd.optim import trust_ratio


def test_closed_forms() -> None:
    weights = torch.tensor([2.0, 0.0, 3.0, 0.0, 50.0])
    updates = torch.tensor([4.0, 1.0, 0.0, 0.0, 5.0])
    ratios = trust_ratio(weights, updates, max_weight_norm=10.0)
    assert ratios.tolist() == [0.5, 1.0, 1.0, 1.0, 2.0]
    assert trust_ratio(weights, updates)[4] == 10.0


def test_bounds_and_coefficient() -> None:
    weights, updates = torch.tensor([0.1, 4.0]), torch.tensor([2.0, 2.0])
    ratios = trust_ratio(weights, updates, coefficient=0.5, min_weight_norm=1.0)
    assert ratios.tolist() == [0.25, 1.0]


def test_the_coefficient_leaves_the_ratio_of_zero_norms() -> None:
    zero, one = torch.tensor(0.0), torch.tensor(1.0)
    assert trust_ratio(zero, one, coefficient=0.001) == 1
    assert trust_ratio(zero, one, min_weight_norm=0.5) == 1


def test_scaling_weights_and_updates_together_changes_nothing() -> None:
    weights, updates = torch.rand(50) + 0.1, torch.rand(50) + 0.1
    torch.testing.assert_close(
        trust_ratio(7 * weights, 7 * updates), trust_ratio(weights, updates)
    )
