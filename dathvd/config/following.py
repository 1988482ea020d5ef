"""Fields that follow another section where they are not set."""

from __future__ import annotations

from typing import Any

from dathvd.config.attack import AttackConfig
from dathvd.config.evaluation import REACH, EvaluationAttackConfig

OWN_ATTACKS: dict[str, dict[str, str]] = {
    "trades": {"loss": "kl", "start": "gaussian"},
    "mart": {"loss": "cross_entropy", "start": "gaussian"},
    "score": {"loss": "squared", "start": "gaussian"},
    "ikl": {"loss": "kl", "start": "gaussian"},
    "hat": {"loss": "kl", "start": "gaussian"},
}
"""What objectives say of their inner maximisation. All start from normal noise of
deviation 0.001, in the code of TRADES (Zhang et al., ICML 2019), MART (Wang et al.,
ICLR 2020), SCORE (Pang et al., ICML 2022), IKL (Cui et al., NeurIPS 2024) and HAT (Rade
and Moosavi-Dezfooli, ICLR 2022). TRADES, IKL and HAT maximise the divergence, MART the
cross-entropy, SCORE the squared distance."""


def attack_of_objective(attack: AttackConfig, objective: str) -> AttackConfig:
    """The training attack, with the objective's own in the fields that are not set.

    Attacks that cannot maximise a divergence stay as they are: those that start from
    the image, aim at a class, or do not look at a loss of their own.
    """
    own = OWN_ATTACKS.get(objective, {})
    able = attack.name in ("apgd", "fgsm_rs", "n_fgsm") or (
        attack.name == "pgd" and attack.random_start
    )
    if not able or attack.target != "none":
        return attack
    changes = {
        field: value
        for field, value in own.items()
        if field not in attack.model_fields_set
        and (field != "start" or attack.name == "pgd")
    }
    return attack.model_copy(update=changes) if changes else attack


def evaluation_of_training(
    judge: EvaluationAttackConfig, attack: AttackConfig
) -> EvaluationAttackConfig:
    """The evaluation's attack in training's ball or balls, where its own are not set.

    ``norm`` and ``epsilon`` are training's where training's are set (a norm of a union
    of balls has the radius that it has there; the attack none has no ball), and
    ``step_size`` lets all steps together reach across the ball:
    ``REACH * epsilon / num_steps``.

    Raises:
        ValueError: the norm is another one than training's, and it or its radius is
            not set.
    """
    given = judge.model_fields_set
    if judge.balls:
        return judge
    if attack.balls and not given & {"norm", "epsilon", "balls"}:
        in_no_ball = judge.name == "none"
        return judge if in_no_ball else judge.model_copy(update={"balls": attack.balls})
    norm = judge.norm if "norm" in given else attack.norm
    if norm not in attack.threat and not given >= {"norm", "epsilon"}:
        missing = "epsilon" if "norm" in given else "norm"
        raise ValueError(
            f"evaluation.attack.{missing}: must be set, as norm {norm} is another one "
            f"than training's {' and '.join(attack.threat)}, whose radius says nothing "
            "of it"
        )
    named = attack.balls or attack.model_fields_set & {"norm", "epsilon"}
    follows = "epsilon" not in given and named
    epsilon = attack.threat[norm] if follows else judge.epsilon
    changes: dict[str, Any] = {"norm": norm, "epsilon": epsilon}
    if "step_size" not in given:
        changes["step_size"] = REACH * epsilon / max(judge.num_steps, 1)
    return judge.model_copy(update=changes)
