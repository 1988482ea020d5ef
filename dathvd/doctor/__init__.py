"""``dathvd doctor``: what is there, what is wrong, and what helps."""

from dathvd.doctor.finding import Finding, report
from dathvd.doctor.local import local_findings
from dathvd.doctor.ranks import rank_findings

__all__ = ["Finding", "local_findings", "rank_findings", "report"]
