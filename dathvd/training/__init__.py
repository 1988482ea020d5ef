"""Distributed adversarial training: the step, the loop, the run.

``dathvd.training.run`` needs Horovod; the step and its batches do not.
"""
