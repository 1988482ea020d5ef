"""Common corruptions of images, in five severities.

Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations, ICLR 2019. Their strengths for CIFAR-10-C serve images of up to 64
pixels, those of ImageNet-C larger ones. Computed here are those that need neither
photographs (frost) nor ImageMagick's or OpenCV's motion and warps (motion blur, snow,
glass blur, elastic, spatter); all are read from the published folders.
"""

from dathvd.evaluation.corruptions.judging import (
    CorruptionRequest,
    judge_corruptions,
    mean_accuracy,
)
from dathvd.evaluation.corruptions.kind import SEVERITIES, corrupt

__all__ = [
    "SEVERITIES",
    "CorruptionRequest",
    "corrupt",
    "judge_corruptions",
    "mean_accuracy",
]
