"""Networks from images in [0, 1] to logits."""

from dathvd.models.build import MODELS, build_model, finish_model
from dathvd.models.head import Projection, freeze_trunk, head_name
from dathvd.models.layers import Normalize

__all__ = [
    "MODELS",
    "Normalize",
    "Projection",
    "build_model",
    "finish_model",
    "freeze_trunk",
    "head_name",
]
