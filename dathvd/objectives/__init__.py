"""Objectives: the outer minimisation of adversarial training.

Every objective is called as ``objective(model, images, adversarial, labels, weights)``
and returns ``Terms``, whose ``loss`` is to be differentiated.
"""

from dathvd.objectives.aligned import GradAligned
from dathvd.objectives.averaged import Averaged
from dathvd.objectives.build import OBJECTIVES, build_objective
from dathvd.objectives.class_means import ClassMeans
from dathvd.objectives.mart import Mart
from dathvd.objectives.objective import Objective, Terms
from dathvd.objectives.perturbed import WeightPerturbed
from dathvd.objectives.supervised import Adversarial, Plain
from dathvd.objectives.trades import Trades

__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "Averaged",
    "ClassMeans",
    "GradAligned",
    "Mart",
    "Objective",
    "Plain",
    "Terms",
    "Trades",
    "WeightPerturbed",
    "build_objective",
]
