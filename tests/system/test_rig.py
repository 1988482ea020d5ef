"""A real rig: hosts, names, rates, counters, and what is left after a crash."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.rig import Rig, down, network, network_is_available, stale_rigs
from tests.programs import RIG, missing

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs(*RIG, "mpirun", "pgrep"),
    pytest.mark.skipif(
        not network_is_available(), reason="needs root and network namespaces"
    ),
    pytest.mark.timeout(60),
]

# argv: rank 0 listens, rank 1 sends it that many bytes; prints the receiver's seconds
_TRANSFER = """
import os, socket, sys, time
size = int(sys.argv[1])
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    with socket.create_server(("", 7000)) as server:
        peer, _ = server.accept()
        start, left = time.perf_counter(), size
        while left:
            left -= len(peer.recv(1 << 20))
        print("seconds", time.perf_counter() - start)
else:
    for attempt in range(100):
        try:
            peer = socket.create_connection(("node0", 7000))
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    peer.sendall(bytes(size))
    peer.shutdown(socket.SHUT_WR)
    peer.recv(1)
"""


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with Rig.create(2, ssh=not missing("ssh", "sshd")) as made:
        yield made


def _namespaces(name: str) -> list[str]:
    return [path.name for path in Path("/run/netns").glob(f"{name}*")]


def test_each_rank_is_alone_on_a_host_of_its_own_name(rig: Rig) -> None:
    script = "echo $(hostname) $OMPI_COMM_WORLD_RANK $OMPI_COMM_WORLD_LOCAL_SIZE"
    done = rig.run(["sh", "-c", script], timeout=30)
    assert sorted(done.stdout.splitlines()) == ["node0 0 1", "node1 1 1"], done.stderr


def test_an_mpi_of_this_process_misleads_no_mpirun(rig: Rig) -> None:
    """What a started MPI adds to the process's environment, behind Python's back."""
    libc = ctypes.CDLL(None)
    libc.setenv(b"OMPI_MCA_ess", b"singleton", 1)
    try:
        done = rig.run(["echo", "here"], timeout=30)
    finally:
        libc.unsetenv(b"OMPI_MCA_ess")
    assert done.stdout.split() == ["here", "here"], done.stderr


def test_hosts_see_each_other_and_nothing_else(rig: Rig) -> None:
    resolve = "import socket; print(socket.gethostbyname('node1'))"
    words = rig.command("node0", [sys.executable, "-c", resolve])
    assert subprocess.check_output(words, text=True).strip() == "10.231.0.2"
    links = rig.command("node0", ["ip", "-o", "link"])
    assert len(subprocess.check_output(links, text=True).splitlines()) == 2
    assert "10.231" not in Path("/etc/hosts").read_text(encoding="utf-8")


@pytest.mark.needs("ssh", "sshd")
def test_ssh_goes_from_host_to_host_without_a_question(rig: Rig) -> None:
    words = rig.command("node0", ["ssh", "node1", "hostname"])
    assert subprocess.check_output(words, text=True, timeout=20) == "node1\n"
    done = rig.run(["hostname"], ssh=True, timeout=30)
    assert sorted(done.stdout.split()) == ["node0", "node1"], done.stderr


def test_a_link_carries_its_rate_and_the_kernel_counts_it(rig: Rig) -> None:
    size, rate = 3_000_000, 40e6
    rig.set_rate("40mbit")
    before = rig.counters()[1]
    done = rig.run([sys.executable, "-c", _TRANSFER, str(size)], timeout=30)
    sent = rig.counters()[1].since(before)
    rig.set_rate("unlimited")
    seconds = float(done.stdout.split()[1])
    # the bucket starts full, and headers take up to 5 %
    assert 0.9 * 8 * size / rate < seconds < 1.6 * 8 * size / rate
    assert sent.payload == pytest.approx(size, rel=0.05)
    assert sent.bytes > size


def test_ranks_that_outlive_the_limit_are_killed(rig: Rig) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        rig.run(["sleep", "97531"], timeout=1.5)
    left = subprocess.run(["pgrep", "-f", "sleep 97531"], capture_output=True)
    assert left.stdout == b""


def _start_maker() -> tuple[subprocess.Popen[str], str]:
    """A process that makes a rig and runs something on it; and the rig's name."""
    script = (
        "import subprocess, time; from dathvd.rig import Rig\n"
        "with Rig.create(2) as rig:\n"
        "    subprocess.Popen(rig.command('node1', ['sleep', '86421']))\n"
        "    print(rig.name, flush=True); time.sleep(60)"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # a job in the background of a shell inherits that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert maker.stdout is not None
    name = maker.stdout.readline().strip()
    assert name.startswith(f"dathvd-rig-{maker.pid}-")
    return maker, name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_maker_that_is_asked_to_end_takes_its_rig_down(number: int) -> None:
    maker, name = _start_maker()
    maker.send_signal(number)
    assert maker.wait(timeout=20) != 0
    assert _namespaces(name) == []
    assert not Path("/run/dathvd-rig", name).exists()


def test_a_killed_maker_leaves_a_stale_rig_that_down_removes() -> None:
    maker, name = _start_maker()
    assert name not in [rig.name for rig in stale_rigs()]
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert name in [rig.name for rig in stale_rigs()]
    words = [sys.executable, "-m", "dathvd", "rig", "down", name]
    assert subprocess.check_output(words, text=True) == f"removed {name}\n"
    assert _namespaces(name) == []
    assert not Path("/run/dathvd-rig", name).exists()
    left = subprocess.run(["pgrep", "-f", "sleep 86421"], capture_output=True)
    assert left.stdout == b""


def test_a_rig_that_cannot_be_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = network.call, 0
    before = _namespaces(f"dathvd-rig-{os.getpid()}-")

    def fail_at_the_ninth(command: list[str]) -> str:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise UserError("rig: no more of these")
        return real(command)

    monkeypatch.setattr(network, "call", fail_at_the_ninth)
    with pytest.raises(UserError, match="no more of these"):
        with Rig.create(2):
            raise AssertionError("made all the same")
    assert calls > 9  # it cleaned up
    assert _namespaces(f"dathvd-rig-{os.getpid()}-") == before


def test_down_twice_is_fine() -> None:
    with Rig.create(1) as made:
        down(made)
        start = time.monotonic()
        down(made)
        assert time.monotonic() - start < 1
    assert _namespaces(made.name) == []
