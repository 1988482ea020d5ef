"""Networks from images in [0, 1] to logits."""

from dathvd.models.build import MODELS, build_model
from dathvd.models.layers import Normalize

__all__ = ["MODELS", "Normalize", "build_model"]
