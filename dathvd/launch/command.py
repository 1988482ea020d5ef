"""Options to the argument list that starts the ranks: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dathvd.errors import UserError
from dathvd.launch.engines import ENGINES, choose_engine
from dathvd.launch.options import LaunchOptions

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


def launch_command(
    options: LaunchOptions,
    worker: Sequence[str],
    *,
    installed: Mapping[str, str],
    environment: Mapping[str, str],
) -> list[str]:
    """The command that starts ``worker`` on every rank.

    Args:
        options: What to start.
        worker: One rank's program and its arguments.
        installed: Path of each engine that is there, by its name.
        environment: What the ranks get; only names reach a command line of MPI.

    Raises:
        UserError: no engine is there that can start the ranks.
    """
    engine = choose_engine(options, installed)
    arguments = ENGINES[engine].arguments(options, environment)
    return [installed[engine], *arguments, *worker]


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
