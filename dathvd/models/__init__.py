"""Networks from images in [0, 1] to logits."""

from dathvd.models.build import MODELS, build_model, finish_model
from dathvd.models.head import Projection, freeze_trunk, head_name
from dathvd.models.layers import Normalize
from dathvd.models.stochastic import StochasticDepth, draws_from, draws_go_on

__all__ = [
    "MODELS",
    "Normalize",
    "Projection",
    "StochasticDepth",
    "build_model",
    "finish_model",
    "draws_from",
    "draws_go_on",
    "freeze_trunk",
    "head_name",
]
