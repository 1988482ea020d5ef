"""Accuracy on the test set, clean and under attack."""

from dathvd.evaluation.accuracy import Accuracy, evaluate
from dathvd.evaluation.run import (
    describe_accuracy,
    evaluate_checkpoint,
    evaluate_test_set,
)

__all__ = [
    "Accuracy",
    "describe_accuracy",
    "evaluate",
    "evaluate_checkpoint",
    "evaluate_test_set",
]
