"""Accuracy of variants, methods and batch sizes, each over several seeds."""
