"""A preempted rank notes the signal; sent again, it does not end the rank's exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PREEMPTED = """
import os, signal, sys
from dathvd.runtime import StopRequest, start
stop = StopRequest(start("cpu"))
assert not stop.poll()
os.kill(os.getpid(), signal.{name})
assert stop.poll()
print("leaving", flush=True)
sys.exit(75)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_sent_again_does_not_change_the_exit_code(name: str) -> None:
    program = PREEMPTED.format(name=name)
    rank = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert rank.stdout is not None and rank.stdout.readline() == b"leaving\n"
    while rank.poll() is None:  # the interpreter gives up its handlers on the way
        os.kill(rank.pid, getattr(signal, name))
    rank.stdout.close()
    assert rank.returncode == 75
