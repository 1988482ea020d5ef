"""A rig's life: up, used, down, and found again after a crash."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dathvd.errors import UserError, choose, nearest
from dathvd.rig import entry, network
from dathvd.rig.network import Counters

PREFIX = "dathvd-rig-"
"""The first part of the name of every namespace and folder of a rig. The number after
it is the pid of the process that made the rig."""
FOLDER = Path("/run/dathvd-rig")
MAX_HOSTS = 64
_TOOLS = ("ip", "tc", "unshare", "mount", "hostname")
_serial = itertools.count()


@dataclass(frozen=True)
class Rig:
    """Hosts ``node0``, ``node1``, … on a switch; build one by ``Rig.create``."""

    name: str
    hosts: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where the rig's own files are."""
        return FOLDER / self.name

    def namespace(self, host: str) -> str:
        """The network namespace of a host (or of ``"switch"``)."""
        return f"{self.name}-{host}"

    @property
    def _namespaces(self) -> list[str]:
        return [self.namespace(host) for host in self.hosts]

    def set_rate(self, rate: str, host: str | None = None) -> None:
        """Limit every link, or one host's, to ``rate``.

        Args:
            rate: such as ``"200mbit"`` or ``"unlimited"``.
            host: whose link; None means all.
        """
        chosen = self.hosts if host is None else [host]
        named = {self._number(each): self.namespace(each) for each in chosen}
        switch = self.namespace("switch")
        for command in network.rate_commands(switch, named, rate):
            network.call(command)

    def set_link(self, host: str, state: str) -> None:
        """Bring a host's link ``up``, ``down``, or into a ``black-hole``.

        Raises:
            UserError: unknown host or state.
        """
        switch, number = self.namespace("switch"), self._number(host)
        namespace = self.namespace(host)
        for command in network.link_commands(switch, namespace, number, state):
            network.call(command)

    def _number(self, host: str) -> int:
        """A host's number.

        Raises:
            UserError: there is no such host.
        """
        if host not in self.hosts:
            raise UserError(f"rig: unknown host {host!r} {nearest(host, self.hosts)}")
        return self.hosts.index(host)

    def counters(self) -> list[Counters]:
        """What each host has sent so far, by the kernel's counters."""
        return [network.read_counters(name) for name in self._namespaces]

    def command(self, host: str, command: Sequence[str]) -> list[str]:
        """The arguments that run ``command`` on ``host``."""
        self._number(host)
        return entry.enter_command(self.folder, host, command)

    def mpirun(
        self,
        command: Sequence[str],
        *,
        size: int | None = None,
        per_host: int = 1,
        ssh: bool = False,
    ) -> list[str]:
        """The arguments that run ``command`` as ``size`` ranks, ``per_host`` on a host.

        Raises:
            UserError: there are not as many hosts, or one would have fewer ranks.
        """
        most = len(self.hosts) * per_host
        size = most if size is None else size
        if size % per_host or not per_host <= size <= most:
            raise UserError(
                f"rig: expected a multiple of {per_host} ranks, {most} at most "
                f"({len(self.hosts)} hosts), got {size}"
            )
        inner = entry.mpirun_command(
            self.folder,
            self.hosts[: size // per_host],
            command,
            per_host=per_host,
            ssh=ssh,
        )
        return self.command(self.hosts[0], inner)

    def run(
        self,
        command: Sequence[str],
        *,
        size: int | None = None,
        per_host: int = 1,
        ssh: bool = False,
        timeout: float,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ranks through mpirun and wait; whatever outlives the limit is killed."""
        try:
            return subprocess.run(
                self.mpirun(command, size=size, per_host=per_host, ssh=ssh),
                capture_output=True,
                text=True,
                check=False,
                timeout=timeout,
                # Python's own view of the environment: an MPI that was started in this
                # process has added variables behind it that would mislead mpirun.
                env={**os.environ, **(env or {})},
            )
        except subprocess.TimeoutExpired:
            self.kill(keep=("sshd",))
            raise

    def kill(self, keep: Sequence[str] = ()) -> None:
        """End every process on the hosts but those of the names in ``keep``."""
        for ending in (signal.SIGTERM, signal.SIGKILL):
            pids = self.pids(keep)
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, ending)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and any(map(_is_running, pids)):
                time.sleep(0.02)

    def pids(self, keep: Sequence[str] = (), host: str | None = None) -> list[int]:
        """The processes on the hosts, or on one, but those of the names in ``keep``."""
        chosen = self.hosts if host is None else [host]
        shown = ""
        for each in chosen:
            with contextlib.suppress(UserError):  # it may be half made or half gone
                shown += network.call(["ip", "netns", "pids", self.namespace(each)])
        found = [int(word) for word in shown.split() if int(word) != os.getpid()]
        return [pid for pid in found if _process_name(pid) not in keep]

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, num_hosts: int, *, rate: str = network.UNLIMITED, ssh: bool = False
    ) -> Iterator[Rig]:
        """A rig for the length of a ``with`` block, which SIGTERM ends like Ctrl-C.

        Raises:
            UserError: not root, a tool is missing, or a bad rate or number of hosts.
        """
        rig = up(num_hosts, rate=rate, ssh=ssh)
        try:
            with _sigterm_interrupts():
                yield rig
        finally:
            down(rig)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM unwind the stack; only a main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def network_is_available() -> bool:
    """Whether rigs can be made here: root, the tools, and a kernel that allows it."""
    try:
        _check(1)
        network.call(["unshare", "--net", "true"])
    except UserError:
        return False
    return True


def up(num_hosts: int, *, rate: str = network.UNLIMITED, ssh: bool = False) -> Rig:
    """Make a rig that stays until ``down``, also after this process has ended."""
    _check(num_hosts)
    network.bits_per_second(rate)
    names = tuple(f"node{index}" for index in range(num_hosts))
    rig = Rig(f"{PREFIX}{os.getpid()}-{next(_serial)}", names)
    try:
        rig.folder.mkdir(parents=True)
        state = {"hosts": names, "started": _start_time(os.getpid())}
        (rig.folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
        entry.write_files(rig.folder, rig.name, names)
        switch = rig.namespace("switch")
        for command in network.create_commands(switch, rig._namespaces):
            network.call(command)
        rig.set_rate(rate)
        if ssh:
            entry.start_sshd(rig.folder, names)
    except BaseException:
        down(rig)
        raise
    return rig


def down(rig: Rig) -> None:
    """End what runs on the hosts and remove the rig, also one half made or gone."""
    rig.kill()
    for name in (*rig._namespaces, rig.namespace("switch")):
        if Path("/run/netns", name).exists():
            network.call(["ip", "netns", "delete", name])
    shutil.rmtree(rig.folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        FOLDER.rmdir()  # only where this was the last rig


def rigs() -> list[Rig]:
    """Every rig on this machine, found by its namespaces and its folder."""
    hosts: dict[str, set[str]] = {}
    for path in Path("/run/netns").glob(f"{PREFIX}*"):
        name, _, host = path.name.rpartition("-")
        hosts.setdefault(name, set()).update({host} - {"switch"})
    for path in FOLDER.glob(f"{PREFIX}*"):
        hosts.setdefault(path.name, set())
    return [
        Rig(name, tuple(sorted(found, key=lambda host: int(host[4:]))))
        for name, found in sorted(hosts.items())
    ]


def find(name: str) -> Rig:
    """The rig of that name.

    Raises:
        UserError: there is none.
    """
    return choose("rig", name, {rig.name: rig for rig in rigs()})


def stale_rigs() -> list[Rig]:
    """The rigs whose maker has ended."""
    return [rig for rig in rigs() if not _has_maker(rig)]


def _has_maker(rig: Rig) -> bool:
    pid = int(rig.name.removeprefix(PREFIX).split("-")[0])
    try:
        state = json.loads((rig.folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return _is_running(pid)
    return bool(_start_time(pid) == state["started"])


def _check(num_hosts: int) -> None:
    if not 1 <= num_hosts <= MAX_HOSTS:
        raise UserError(f"rig: expected 1 to {MAX_HOSTS} hosts, got {num_hosts}")
    if os.geteuid() != 0:
        raise UserError("rig: network namespaces need root; run this command as root")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise UserError(
            f"rig: {', '.join(missing)}: not found "
            "(apt-get install iproute2 util-linux hostname)"
        )


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; none where there is no process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> str | None:
    """When the process started: with its pid, it names a process once and for all."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else None


def _is_running(pid: int) -> bool:
    return _start_time(pid) is not None


def _process_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
