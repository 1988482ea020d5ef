"""Known vulnerabilities of packages: ``audit.py PIP-AUDIT [OPTION…] <name==version…``.

pip-audit counts a package that its database does not answer for as skipped, and ends
well where that is all of them. Here it is said how many were asked for and not known,
and nothing known at all is a failure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

UNREACHABLE = 2
VULNERABLE = 1


def ask(command: Sequence[str], packages: Sequence[str]) -> tuple[list[Any], str]:
    """What the database says of each package; the tool's last words where it failed."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(packages))
        file.flush()
        options = ["--no-deps", "--disable-pip", "--progress-spinner=off"]
        done = subprocess.run(
            [*command, *options, "--format=json", "--requirement", file.name],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        return list(json.loads(done.stdout)["dependencies"]), ""
    except (ValueError, KeyError):
        lines = done.stderr.strip().splitlines()
        return [], lines[-1] if lines else f"exit code {done.returncode}"


def main(command: Sequence[str], packages: Sequence[str]) -> int:
    """Print the vulnerabilities and one line of numbers; the exit code."""
    # one alone first: without an answer the others need not be asked for
    found, problem = ask(command, packages[:1])
    if any("vulns" in each for each in found):
        found, problem = ask(command, packages)
    known = [each for each in found if "vulns" in each]
    if not known:
        reason = problem or "it knows none of the packages"
        print(f"audit: no vulnerability database could be asked: {reason}")
        return UNREACHABLE
    bad = [each for each in known if each["vulns"]]
    for each in bad:
        for flaw in each["vulns"]:
            fixed = ", ".join(flaw.get("fix_versions", [])) or "no version"
            print(f"{each['name']} {each['version']}: {flaw['id']}, fixed by {fixed}")
    others = sorted(each["name"] for each in found if "vulns" not in each)
    unknown = f"; not known there: {', '.join(others)}" if others else ""
    print(f"audit: {len(bad)} of {len(known)} packages have known flaws{unknown}")
    return VULNERABLE if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdin.read().split()))
