"""The training service: submit, watch, stop, resume and compare runs.

The engine (this machine's queue, Slurm, Kubernetes, LSF) and the run folder are the
truth. The catalogue is an index that can be made anew from them, and ranks talk to
neither a tracker nor a database.
"""
