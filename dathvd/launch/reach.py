"""Whether the hosts can be reached before anything is started on them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dathvd.errors import UserError
from dathvd.launch.hosts import is_local
from dathvd.launch.options import LaunchOptions

CONNECT_TIMEOUT = 8
"""Seconds that a host gets to answer."""


def ssh_command(host: str, options: LaunchOptions, remote: str) -> list[str]:
    """ssh without questions; a new host's key is noted, a changed one refused."""
    words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"]
    words += ["-o", f"ConnectTimeout={CONNECT_TIMEOUT}"]
    if options.ssh_port is not None:
        words += ["-p", str(options.ssh_port)]
    if options.ssh_identity_file:
        words += ["-i", options.ssh_identity_file]
    return [*words, host, remote]


def check_hosts(options: LaunchOptions) -> None:
    """See that every other host can be reached and has this Python and this folder.

    Raises:
        UserError: the first host that cannot be used, why, and what to do.
    """
    remote = [host.name for host in options.hosts if not is_local(host.name)]
    with ThreadPoolExecutor(max_workers=32) as pool:
        problems = pool.map(lambda host: problem_of(host, options), remote)
    bad = [problem for problem in problems if problem]
    if bad:
        more = f" (and {len(bad) - 1} more hosts with problems)" if bad[1:] else ""
        raise UserError(bad[0] + more)


def problem_of(host: str, options: LaunchOptions) -> str | None:
    """One line on why the host cannot be used, or None."""
    folder, python = os.getcwd(), sys.executable
    check = (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 101; "
        f"test -x {shlex.quote(python)} || exit 102; exit 103"
    )
    code, said = _run(ssh_command(host, options, check))
    if code == 103:
        return None
    if code == 101:
        return f"host {host}: no folder {folder} (use a shared or equal path)"
    if code == 102:
        return f"host {host}: no {python} (set dathvd up there at the same path)"
    port = f" on port {options.ssh_port}" if options.ssh_port is not None else ""
    return (
        f"host {host}: cannot be reached over ssh{port}: {said} "
        f"(ssh {host} true must work without a password)"
    )


def _run(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CONNECT_TIMEOUT + 7,
        )
    except subprocess.TimeoutExpired:
        return 255, "no answer"
    except OSError as error:
        return 255, f"ssh cannot be started: {error.strerror}"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return done.returncode, lines[-1] if lines else f"exit code {done.returncode}"
