"""Distributed adversarial training: the step, the loop, the run."""

from dathvd.training.run import train

__all__ = ["train"]
