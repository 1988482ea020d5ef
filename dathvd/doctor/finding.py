"""One thing that the doctor looked at, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """What was looked at, what it is, and how to mend it."""

    name: str
    value: str
    state: State = "ok"
    """warn: training works, but not as well as it could; FAIL: it would not work."""
    remedy: str = ""
    """What to do; empty where all is well."""

    def __post_init__(self) -> None:
        assert (self.state == "ok") == (not self.remedy), self


def report(findings: Sequence[Finding]) -> str:
    """A table; each problem is followed by its remedy."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.state:<4}  {finding.name:<{width}}  {finding.value}")
        if finding.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  → {finding.remedy}")
    return "\n".join(lines)


def would_fail(findings: Sequence[Finding]) -> bool:
    """Whether training would fail."""
    return any(finding.state == "FAIL" for finding in findings)
