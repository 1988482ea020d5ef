"""The guard: what it holds out, what it calls a collapse, what it does then."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dathvd.config import AttackConfig, Config, load_config
from dathvd.data import Dataset, TensorImages, load_dataset
from dathvd.errors import UserError
from dathvd.runtime import Runtime
from dathvd.training.guard import Guard, hold_out, probe_attack, strengthened

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)


def configured(*overrides: str) -> Config:
    return load_config(None, ["train.guard.action=roll_back", *overrides])


def dataset(count: int = 50, extra: int = 0) -> Dataset:
    """Images whose every pixel is their place."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    images = TensorImages(pixels.expand(-1, 1, 8, 8), torch.arange(count) % 10)
    return Dataset(images, images, tuple("0123456789"), (1, 8, 8), extra)


def guard(*overrides: str) -> Guard:
    return Guard(configured(*overrides), dataset().train, ALONE)


def places(images: TensorImages | object) -> list[int]:
    assert hasattr(images, "batch") and hasattr(images, "__len__")
    batch = images.batch(torch.arange(len(images)))
    return [int(place) for place in batch[:, 0, 0, 0]]


def test_a_fall_from_the_best_by_more_than_the_drop_is_a_collapse() -> None:
    one = guard("train.guard.drop=20")
    seen = [0.1, 0.5, 0.4, 0.3, 0.29, 0.3, 0.5, 0.29]
    found = [one.judge(accuracy, step) for step, accuracy in enumerate(seen, 1)]
    # 0.3 is not below 0.5 by more than 20 points; after 0.29 that is the new start
    assert found == [False, False, False, False, True, False, False, True]
    assert one.good_step == 7
    slow = guard("train.guard.drop=20")
    for step, accuracy in enumerate([0.5, 0.41, 0.39, 0.31], 1):
        assert not slow.judge(accuracy, step)
    assert slow.good_step == 2, "0.39 is more than 10 points below 0.5"
    assert [(c["step"], c["before"], c["after"]) for c in one.collapses] == [
        (5, 0.5, 0.29),
        (8, 0.5, 0.29),
    ]


def test_it_acts_so_often_and_then_only_warns() -> None:
    one = guard("train.guard.max_actions=2", "train.guard.added_steps=3")
    one.judge(0.9, 10)
    one.judge(0.1, 20)
    assert one.may_act
    line = one.warning()
    assert "step 20" in line and "90.0 % to 10.0 %" in line and "\n" not in line
    assert "back to step 10, 3 attack steps more" in line
    one.actions = 2
    assert not one.may_act and "smaller epsilon" in one.warning()
    assert one.attack().num_steps == one.config.attack.num_steps + 6
    assert one.describe()["added_steps"] == 6
    assert not guard("train.guard.action=warn").may_act


def test_a_restored_guard_goes_on_as_if_never_stopped() -> None:
    first, second = guard(), guard()
    for step, accuracy in enumerate([0.3, 0.8, 0.2, 0.4], 1):
        first.judge(accuracy, step)
    first.actions = 1
    second.load_state_dict(first.state_dict())
    for step, accuracy in enumerate([0.7, 0.3, 0.6], 5):
        assert first.judge(accuracy, step) is second.judge(accuracy, step)
    assert first.state_dict() == second.state_dict()


@pytest.mark.parametrize("name", ["fgsm", "fgsm_rs"])
def test_one_step_becomes_pgd_in_the_same_ball(name: str) -> None:
    attack = AttackConfig.model_validate({"name": name, "epsilon": 0.3, "norm": "l2"})
    more = strengthened(attack, 2)
    assert (more.name, more.num_steps, more.random_start) == ("pgd", 3, True)
    assert (more.epsilon, more.norm) == (0.3, "l2")
    assert more.num_steps * more.step_size == pytest.approx(2.5 * 0.3)
    assert strengthened(attack, 0) == attack


@pytest.mark.parametrize("name", ["pgd", "apgd", "mine.attacks:build"])
def test_pgd_and_a_foreign_attack_get_more_of_their_own_steps(name: str) -> None:
    attack = AttackConfig(name=name, num_steps=4, step_size=0.05)
    more = strengthened(attack, 3)
    assert more == attack.model_copy(update={"num_steps": 7})


def test_the_probe_stays_in_the_training_ball() -> None:
    config = configured("attack.epsilon=0.4", "attack.norm=l2", "attack.num_steps=1")
    probe = probe_attack(config)
    assert (probe.name, probe.norm, probe.epsilon) == ("pgd", "l2", 0.4)
    assert probe.num_steps == 10 and probe.step_size == pytest.approx(0.1)


def test_held_out_images_are_never_trained_on_and_extra_ones_never_held_out() -> None:
    config = configured("train.guard.num_samples=12")
    rest, held_out = hold_out(dataset(50, extra=20), config)
    assert len(held_out) == 12 and rest.num_extra == 20
    assert sorted(places(rest.train) + places(held_out)) == list(range(50))
    assert max(places(held_out)) < 30
    assert places(rest.train)[-20:] == list(range(30, 50))
    expected = torch.tensor(places(rest.train)) % 10
    assert torch.equal(rest.train.labels, expected)
    again, _ = hold_out(dataset(50, extra=20), config)
    other, _ = hold_out(dataset(50, extra=20), config.model_copy(update={"seed": 1}))
    assert places(again.train) == places(rest.train) != places(other.train)


def test_the_probe_sees_images_as_large_as_evaluation_does() -> None:
    crop = ["data.augment=true", "data.image_size=10", "data.crop_size=6"]
    config = configured("train.guard.num_samples=12", *crop)
    whole = load_dataset(config.data)
    rest, held_out = hold_out(whole, config)
    batches = [each.batch(torch.arange(2)) for each in (held_out, rest.train)]
    assert [batch.shape[-1] for batch in batches] == [6, 10]
    everything = whole.train.batch(torch.arange(len(whole.train)))[..., 2:8, 2:8]
    assert any(torch.equal(batches[0][0], middle) for middle in everything)


def test_holding_out_half_is_refused() -> None:
    with pytest.raises(UserError, match="256 of 50 training images .* at most 24"):
        hold_out(dataset(), configured())


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["attack.name=none"], "there is no robust accuracy to watch"),
        (["attack.name=free"], "cannot add steps to attack.name free"),
        (["objective.name=rotation"], "there is no robust accuracy to watch"),
        (["train.guard.action=rollback"], "train.guard.action: input should be 'none'"),
        (["train.guard.drop=0"], "train.guard.drop: input should be greater than 0"),
        (["train.guard.steps=1"], "unknown key 'train.guard.steps'"),
    ],
)
def test_a_guard_that_cannot_work_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        configured(*overrides)
    assert message in str(caught.value)
