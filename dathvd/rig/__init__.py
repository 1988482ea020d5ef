"""Several hosts with slow links on one machine, out of network namespaces.

The rig is a star: one namespace holds a bridge (the switch), one more for each host is
joined to it by a veth pair, and a token bucket at each end of that pair limits what the
host sends and what it receives. Everything lives in these namespaces and in a folder
under /run, so that deleting those leaves nothing behind.
"""

from dathvd.rig.network import Counters
from dathvd.rig.rig import (
    Rig,
    down,
    network_is_available,
    stale_rigs,
    up,
)

__all__ = ["Counters", "Rig", "down", "network_is_available", "stale_rigs", "up"]
