"""Attacks: the inner maximisation of adversarial training.

Every attack is called as ``attack(model, images, labels, noise)`` and is pure: the
model's modes, buffers and gradients and the images are as before, nothing is sent, and
its randomness comes from ``noise`` alone.
"""

from dathvd.attacks.attack import Attack, NoAttack
from dathvd.attacks.balls import BALLS, Ball, L1Ball, L2Ball, LinfBall
from dathvd.attacks.build import ATTACKS, build_attack, describe_attack
from dathvd.attacks.free import FreeAttack
from dathvd.attacks.losses import LOSSES, cross_entropy, kl_divergence, margin
from dathvd.attacks.pgd import PGD

__all__ = [
    "ATTACKS",
    "BALLS",
    "LOSSES",
    "PGD",
    "Attack",
    "Ball",
    "FreeAttack",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "NoAttack",
    "build_attack",
    "cross_entropy",
    "describe_attack",
    "kl_divergence",
    "margin",
]
