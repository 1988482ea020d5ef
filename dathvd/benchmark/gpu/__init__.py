"""What one GPU does: steps, codecs and AutoAttack, against other code.

``python -m dathvd.benchmark.gpu`` needs no Horovod.
"""
