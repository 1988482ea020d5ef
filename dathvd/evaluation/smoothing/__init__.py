"""Randomised smoothing: radii within which a prediction is certain.

Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing,
ICML 2019.
"""

from dathvd.evaluation.smoothing.certificate import ABSTAIN, Certificate, certify
from dathvd.evaluation.smoothing.judging import CertifyRequest, certify_run

__all__ = ["ABSTAIN", "Certificate", "CertifyRequest", "certify", "certify_run"]
