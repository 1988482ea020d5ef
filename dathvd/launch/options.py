"""What the ranks of a job are, where they run, and what starts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dathvd.errors import UserError
from dathvd.launch.hosts import Host

Controller = Literal["mpi", "gloo"]


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How many ranks, where, and over what."""

    num_proc: int
    """Ranks in total."""
    hosts: tuple[Host, ...] = ()
    """Where they run; empty: all on this machine."""
    controller: Controller = "mpi"
    """What coordinates the ranks and carries CPU tensors."""
    launcher: str | None = None
    """A name of ``dathvd.launch.launchers.LAUNCHERS``; None takes the first one that is
    installed and can start ranks over the controller."""
    network_interface: str | None = None
    """Restricts traffic between ranks to one interface, such as eth0; it must have that
    name on all hosts, the launching one included."""
    ssh_port: int | None = None
    ssh_identity_file: str | None = None
    forward: tuple[str, ...] = ()
    """Further environment variables, by name, that ranks get."""

    def __post_init__(self) -> None:
        slots = sum(host.slots for host in self.hosts)
        if self.hosts and self.num_proc > slots:
            raise UserError(
                f"-np {self.num_proc}: the hosts have {slots} slots in total "
                f"({', '.join(map(str, self.hosts))}); give -np {slots} or more slots"
            )
