"""Calling an engine's own programs, such as ``sbatch`` or ``kubectl``."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from dathvd.errors import UserError
from dathvd.service.engines.base import Unreachable

SECONDS = 30.0
"""How long a program may take before its engine counts as unreachable."""


def ask(command: Sequence[str], text: str = "") -> str:
    """What a program printed, given ``text`` as its standard input.

    Raises:
        UserError: the program is not installed.
        Unreachable: it failed, or took too long; the message is its last line.
    """
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=SECONDS
        )
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed here") from None
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{command[0]} gave no answer in {SECONDS:.0f} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise Unreachable(f"{command[0]}: {reason}")
    return done.stdout
