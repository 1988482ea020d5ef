"""What follows another section: the evaluation's ball, the attack of an objective."""

from pathlib import Path
from typing import Any

import pytest

from dathvd.config import Config, dump_config, load_config
from dathvd.errors import UserError
from dathvd.training.announce import describe_attacks


def judged(*overrides: str, path: str | Path | None = None) -> tuple[Any, ...]:
    attack = load_config(path, overrides).evaluation.attack
    return attack.norm, attack.epsilon, attack.step_size


def test_the_default_run_is_judged_at_its_own_radius() -> None:
    assert judged() == judged(path="digits") == ("linf", 0.15, 0.01875)


@pytest.mark.parametrize("path", [None, "digits"])
def test_an_l2_run_is_judged_in_its_own_ball(path: str | None) -> None:
    ball = judged("attack.norm=l2", "attack.epsilon=1.0", path=path)
    assert ball == ("l2", 1.0, 2.5 / 20)


def test_what_is_set_stays() -> None:
    l2 = ("attack.norm=l2", "attack.epsilon=1.0")
    assert judged(*l2, "evaluation.attack.epsilon=0.5") == ("l2", 0.5, 2.5 * 0.5 / 20)
    assert judged(*l2, "evaluation.attack.step_size=0.3") == ("l2", 1.0, 0.3)
    linf = ("evaluation.attack.norm=linf", "evaluation.attack.epsilon=8/255")
    assert judged(*l2, *linf)[:2] == ("linf", 8 / 255)
    assert judged("attack.epsilon=0.3", path="digits")[:2] == ("linf", 0.15)
    assert judged("attack.epsilon=0.3")[:2] == ("linf", 0.3)
    assert judged("evaluation.attack.num_steps=5")[2] == 2.5 * 0.15 / 5


def test_a_files_evaluation_keeps_the_norm_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("evaluation: {attack: {norm: linf, epsilon: 0.2}}\n")
    assert judged("attack.norm=l2", "attack.epsilon=1.0", path=file)[:2] == (
        "linf",
        0.2,
    )


def test_a_norm_without_its_radius_is_refused() -> None:
    with pytest.raises(UserError, match="evaluation.attack.epsilon: must be set, as"):
        load_config(None, ["evaluation.attack.norm=l2"])


UNION = "attack.balls={l1: 12, l2: 0.5}"


def test_a_norm_of_a_union_has_its_radius_there() -> None:
    assert judged(UNION, "evaluation.attack.norm=l1") == ("l1", 12.0, 12 / 8)
    with pytest.raises(UserError, match="epsilon: must be set, as norm linf is an"):
        load_config(None, [UNION, "evaluation.attack.norm=linf"])
    with pytest.raises(UserError, match="norm: must be set, as norm linf is another"):
        load_config(None, [UNION, "evaluation.attack.epsilon=0.1"])


def test_a_union_that_is_judged_without_an_attack_can_be_read_again() -> None:
    config = load_config(None, [UNION, "evaluation.attack.name=none"])
    assert Config.model_validate_json(config.model_dump_json()) == config


def training(objective: str, *overrides: str) -> tuple[str, str]:
    attack = load_config(None, [f"objective.name={objective}", *overrides]).attack
    return attack.loss, attack.start


@pytest.mark.parametrize(
    "objective, expected",
    [
        ("trades", ("kl", "gaussian")),
        ("mart", ("cross_entropy", "gaussian")),
        ("adversarial", ("cross_entropy", "uniform")),
    ],
)
def test_objectives_have_their_published_attacks(
    objective: str, expected: tuple[str, str]
) -> None:
    assert training(objective) == expected
    assert training(objective, "attack.loss=margin") == ("margin", expected[1])
    assert training(objective, "attack.start=uniform") == (expected[0], "uniform")


def test_attacks_that_cannot_diverge_keep_their_loss() -> None:
    for override in ("name=fgsm", "name=none", "name=free", "random_start=false"):
        assert training("trades", f"attack.{override}")[0] == "cross_entropy"
    assert training("trades", "attack.target=random")[0] == "cross_entropy"
    assert training("trades", "attack.name=fgsm_rs") == ("kl", "uniform")


def test_a_written_configuration_says_all_of_it(tmp_path: Path) -> None:
    """So that what an older version saved is read as it was."""
    overrides = ["attack.norm=l2", "attack.epsilon=1.0", "objective.name=trades"]
    config = load_config(None, overrides)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    tree = config.model_dump()
    tree["attack"].update(loss="cross_entropy", start="uniform")
    tree["evaluation"]["attack"].update(norm="linf", epsilon=0.15, step_size=0.01)
    older = Config.model_validate(tree)
    assert older.model_dump() == tree


def test_the_start_says_what_is_maximised_and_what_judges() -> None:
    trained, judge = describe_attacks(
        load_config(None, ["objective.name=trades", "attack.norm=l2"])
    )
    assert trained.startswith("trained on PGD-KL-5 l2 epsilon 0.17")
    assert trained.endswith("which maximises kl from a gaussian start")
    assert judge.startswith("judged by PGD-20 l2 epsilon 0.17 step 0.02125")
    trained, judge = describe_attacks(
        load_config(None, ["attack.name=none", "objective.name=plain"])
    )
    assert (trained, judge[:21]) == ("trained on none", "judged by PGD-20 linf")
