"""Optimizers with layer-wise adaptive learning rates, and learning-rate schedules."""

from dathvd.optim.build import OPTIMIZERS, build_optimizer
from dathvd.optim.lamb import LAMB
from dathvd.optim.lars import LARS
from dathvd.optim.layerwise import LayerwiseOptimizer, named_trust_ratios
from dathvd.optim.schedule import learning_rate, scaled_lr
from dathvd.optim.trust import trust_ratio

__all__ = [
    "LAMB",
    "LARS",
    "OPTIMIZERS",
    "LayerwiseOptimizer",
    "build_optimizer",
    "learning_rate",
    "named_trust_ratios",
    "scaled_lr",
    "trust_ratio",
]
