"""Standard AutoAttack: four attacks, each on what those before it have left."""

from dathvd.evaluation.autoattack.ensemble import AUTOATTACK, AutoAttack

__all__ = ["AUTOATTACK", "AutoAttack"]
