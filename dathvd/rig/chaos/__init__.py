"""A campaign of faults: whatever happens, a job ends as if nothing had.

Each round starts a small job, strikes it by one fault at a random moment, does what an
operator would (the same command again, where the exit code says so), and compares the
end with that of an undisturbed run. Faults, moments and victims follow from a seed;
what a process is doing at such a moment does not.
"""

from dathvd.rig.chaos.campaign import Campaign
from dathvd.rig.chaos.faults import FAULTS, available
from dathvd.rig.chaos.record import read, write
from dathvd.rig.chaos.report import line, print_report
from dathvd.rig.chaos.rounds import Verdict

__all__ = [
    "FAULTS",
    "Campaign",
    "Verdict",
    "available",
    "line",
    "print_report",
    "read",
    "write",
]
