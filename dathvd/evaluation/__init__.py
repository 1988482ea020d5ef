"""Accuracy on the test set, clean and under attack."""

from dathvd.evaluation.accuracy import Accuracy, evaluate
from dathvd.evaluation.attack_kind import EvaluationAttack
from dathvd.evaluation.attacks import EVALUATION_ATTACKS
from dathvd.evaluation.grid import Cell, Grid
from dathvd.evaluation.requests import (
    Request,
    describe_accuracy,
    evaluate_checkpoint,
    evaluate_test_set,
)
from dathvd.evaluation.sanity.measurement import SanityRequest, check_sanity

__all__ = [
    "EVALUATION_ATTACKS",
    "Accuracy",
    "Cell",
    "EvaluationAttack",
    "Grid",
    "Request",
    "SanityRequest",
    "check_sanity",
    "describe_accuracy",
    "evaluate",
    "evaluate_checkpoint",
    "evaluate_test_set",
]
