"""Whether the hosts of a job can be reached."""

from __future__ import annotations

from dathvd.doctor.finding import Finding
from dathvd.launch.hosts import is_local
from dathvd.launch.options import LaunchOptions
from dathvd.launch.reach import problem_of


def host_findings(options: LaunchOptions) -> list[Finding]:
    """One finding a host that is not this one."""
    findings = []
    for host in options.hosts:
        if is_local(host.name):
            continue
        problem = problem_of(host.name, options)
        if problem is None:
            findings.append(Finding(f"Host {host.name}", "reachable, set up"))
            continue
        reason, _, remedy = problem.removeprefix(f"host {host.name}: ").rpartition(" (")
        findings.append(
            Finding(f"Host {host.name}", reason, "FAIL", remedy.rstrip(")"))
        )
    return findings
