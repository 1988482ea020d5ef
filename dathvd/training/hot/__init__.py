"""State in memory that is seconds old: what a restart goes on from.

Every few steps each rank keeps a copy of its state in its host's memory and, where
there are several hosts, in that of the next one, so that the loss of one host loses
nothing. A restart uses it only where it is whole: every part there, of the same step
and attempt, each with the hash that it was written with. Otherwise the newest
checkpoint on disk serves.
"""

from dathvd.training.hot.keeping import HotState
from dathvd.training.hot.restoring import restore

__all__ = ["HotState", "restore"]
