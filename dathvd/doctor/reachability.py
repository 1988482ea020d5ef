"""Whether the hosts of a job can be reached."""

from __future__ import annotations

from dathvd.doctor.finding import Finding
from dathvd.launch.hosts import is_local
from dathvd.launch.options import LaunchOptions
from dathvd.launch.reach import probe


def host_findings(options: LaunchOptions) -> list[Finding]:
    """One finding a host that is not this one."""
    findings = []
    for host in options.hosts:
        if is_local(host.name):
            continue
        problem = probe(host.name, options).problem
        if problem is None:
            findings.append(Finding(f"Host {host.name}", "reachable, set up"))
            continue
        reason, _, remedy = problem.removeprefix(f"host {host.name}: ").rpartition(" (")
        findings.append(
            Finding(f"Host {host.name}", reason, "FAIL", remedy.rstrip(")"))
        )
    return findings
