"""Options to the argument list that starts the ranks: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dathvd.errors import UserError
from dathvd.launch.hosts import Host

Controller = Literal["mpi", "gloo"]

# What a rank may need. horovodrun writes every variable's value on each rank's command
# line under Gloo, where all users of a host can read it, so there nothing else goes
# along; mpirun sends the values over its own connection.
_SAFE = re.compile(
    r"(PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|VIRTUAL_ENV|PYTHON\w+|CUDA_\w+|NVIDIA_\w+"
    r"|(HOROVOD|GLOO|NCCL|UCX|FI|OMPI_MCA|OMPI_ALLOW|OMP|KMP|GOMP|MKL|OPENBLAS)_\w+"
    r"|(TORCH|MALLOC|DATHVD|SLURM|LSB|XDG|MPL)_?\w+)"
)
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$|^KEY$|AUTH", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """How many ranks, where, and over what."""

    num_proc: int
    """Ranks in total."""
    hosts: tuple[Host, ...] = ()
    """Where they run; empty: all on this machine."""
    controller: Controller = "mpi"
    """What coordinates the ranks and carries CPU tensors."""
    network_interface: str | None = None
    """Restricts traffic between ranks to one interface, such as eth0."""
    ssh_port: int | None = None
    ssh_identity_file: str | None = None
    forward: tuple[str, ...] = ()
    """Further environment variables, by name, that ranks get over Gloo."""

    def __post_init__(self) -> None:
        slots = sum(host.slots for host in self.hosts)
        if self.hosts and self.num_proc > slots:
            raise UserError(
                f"-np {self.num_proc}: the hosts have {slots} slots in total "
                f"({', '.join(map(str, self.hosts))}); give -np {slots} or more slots"
            )


def launch_command(
    options: LaunchOptions,
    worker: Sequence[str],
    *,
    horovodrun: str | None,
    environment: Mapping[str, str],
) -> list[str]:
    """The command that starts ``worker`` on every rank.

    Args:
        options: What to start.
        worker: One rank's program and its arguments.
        horovodrun: Path of horovodrun; None where only mpirun is there.
        environment: What the ranks get; only names reach a command line of MPI.
    """
    if horovodrun is not None:
        return [horovodrun, *_horovodrun_options(options), *worker]
    if options.controller == "gloo":
        raise UserError("--gloo needs horovodrun, which is not installed (use --mpi)")
    return ["mpirun", *_mpirun_options(options, sorted(environment)), *worker]


def _horovodrun_options(options: LaunchOptions) -> list[str]:
    words = ["-np", str(options.num_proc)]
    if options.hosts:
        words += ["-H", ",".join(map(str, options.hosts))]
    words.append(f"--{options.controller}")
    if options.network_interface:
        words += ["--network-interface", options.network_interface]
    if options.ssh_port is not None:
        words += ["--ssh-port", str(options.ssh_port)]
    if options.ssh_identity_file:
        words += ["--ssh-identity-file", options.ssh_identity_file]
    return words


def _mpirun_options(options: LaunchOptions, names: Sequence[str]) -> list[str]:
    hosts = options.hosts or (Host("localhost", options.num_proc),)
    words = ["--allow-run-as-root", "--tag-output", "-np", str(options.num_proc)]
    words += ["-H", ",".join(map(str, hosts)), "--bind-to", "none", "--map-by", "slot"]
    words += ["-mca", "pml", "ob1", "-mca", "btl", "^openib"]
    if options.network_interface:
        for component in ("btl_tcp_if_include", "oob_tcp_if_include"):
            words += ["-mca", component, options.network_interface]
    for name in names:
        if re.fullmatch(r"[A-Za-z_]\w*", name) and not name.startswith("OMPI_MCA_"):
            words += ["-x", name]
    return words


def launch_environment(
    environ: Mapping[str, str], options: LaunchOptions, *, cores: int
) -> dict[str, str]:
    """The environment of the launcher and with it of the ranks.

    Raises:
        UserError: a variable to forward is not set, or its value is a secret that
            would stand on command lines.
    """
    for name in options.forward:
        if name not in environ:
            raise UserError(f"--env {name}: this variable is not set")
        if options.controller == "gloo" and _SECRET.search(name):
            raise UserError(
                f"--env {name}: over Gloo its value would stand on command lines "
                "that other users can read (use --mpi)"
            )
    environment = dict(environ)
    if options.controller == "gloo":
        environment = {
            name: value
            for name, value in environ.items()
            if name in options.forward
            or (_SAFE.fullmatch(name) and not _SECRET.search(name))
        }
    return {**_defaults(options, cores), **environment}


def _defaults(options: LaunchOptions, cores: int) -> dict[str, str]:
    """Settings that are better than the libraries' own; the user's own win."""
    defaults = {
        "PYTHONUNBUFFERED": "1",
        # pages that glibc keeps instead of giving back and faulting in each step
        "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    if options.hosts:
        # the default protocol (put) serialises a link's two directions
        defaults["OMPI_MCA_btl_tcp_flags"] = "1"
        words = ["-o BatchMode=yes -o StrictHostKeyChecking=accept-new"]
        words += [f"-p {options.ssh_port}"] if options.ssh_port is not None else []
        if options.ssh_identity_file:
            words.append(f"-i {options.ssh_identity_file}")
        defaults["OMPI_MCA_plm_rsh_args"] = " ".join(words)
    most = max((h.slots for h in options.hosts), default=options.num_proc)
    if most > cores:
        # a rank that waits yields its core instead of polling on it
        defaults["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return defaults
