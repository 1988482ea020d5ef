"""Options to the argument list that starts the ranks: pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from dathvd.errors import UserError
from dathvd.launch.launchers import LAUNCHERS, choose_launcher
from dathvd.launch.options import LaunchOptions

# What a rank may need, by exact name: horovodrun writes every variable's value on each
# rank's command line under Gloo, where all users of a host can read it, and a pattern
# of names would let a secret through. mpirun sends the values over its own connection.
FORWARDED = frozenset("""
    PATH HOME USER LOGNAME SHELL TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD
    LANG LC_ALL LC_CTYPE LC_NUMERIC LC_TIME LC_COLLATE LC_MESSAGES
    VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONUNBUFFERED PYTHONHASHSEED PYTHONWARNINGS
    PYTHONFAULTHANDLER PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONSAFEPATH
    PYTHONIOENCODING PYTHONUTF8 PYTHONNOUSERSITE PYTHONTRACEMALLOC
    OMP_NUM_THREADS OMP_PROC_BIND OMP_PLACES OMP_SCHEDULE OMP_DYNAMIC OMP_WAIT_POLICY
    KMP_AFFINITY KMP_BLOCKTIME GOMP_CPU_AFFINITY GOMP_SPINCOUNT
    MKL_NUM_THREADS MKL_DYNAMIC MKL_ENABLE_INSTRUCTIONS OPENBLAS_NUM_THREADS
    MALLOC_ARENA_MAX MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_ MALLOC_TOP_PAD_
    CUDA_HOME CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING
    CUDA_CACHE_PATH CUDA_MODULE_LOADING CUBLAS_WORKSPACE_CONFIG
    NVIDIA_VISIBLE_DEVICES NVIDIA_DRIVER_CAPABILITIES NVIDIA_TF32_OVERRIDE
    NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_DEBUG_FILE NCCL_SOCKET_IFNAME NCCL_SOCKET_FAMILY
    NCCL_SOCKET_NTHREADS NCCL_NSOCKS_PERTHREAD NCCL_IB_DISABLE NCCL_IB_HCA
    NCCL_IB_GID_INDEX NCCL_IB_TC NCCL_IB_SL NCCL_IB_TIMEOUT NCCL_IB_RETRY_CNT
    NCCL_NET NCCL_NET_GDR_LEVEL NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_SHM_DISABLE
    NCCL_ALGO NCCL_PROTO NCCL_BUFFSIZE NCCL_NTHREADS NCCL_MIN_NCHANNELS
    NCCL_MAX_NCHANNELS NCCL_TOPO_FILE NCCL_CROSS_NIC NCCL_LAUNCH_MODE
    GLOO_SOCKET_IFNAME UCX_TLS UCX_NET_DEVICES UCX_IB_GID_INDEX
    FI_PROVIDER FI_EFA_USE_DEVICE_RDMA
    HOROVOD_AUTOTUNE HOROVOD_AUTOTUNE_LOG HOROVOD_CACHE_CAPACITY HOROVOD_CYCLE_TIME
    HOROVOD_FUSION_THRESHOLD HOROVOD_HIERARCHICAL_ALLREDUCE
    HOROVOD_HIERARCHICAL_ALLGATHER HOROVOD_LOG_LEVEL HOROVOD_LOG_HIDE_TIME
    HOROVOD_MPI_THREADS_DISABLE HOROVOD_NUM_NCCL_STREAMS
    HOROVOD_STALL_CHECK_DISABLE HOROVOD_STALL_CHECK_TIME_SECONDS
    HOROVOD_STALL_SHUTDOWN_TIME_SECONDS HOROVOD_THREAD_AFFINITY HOROVOD_TIMELINE
    HOROVOD_TIMELINE_MARK_CYCLES HOROVOD_GLOO_TIMEOUT_SECONDS HOROVOD_START_TIMEOUT
    TORCH_HOME TORCH_NUM_THREADS TORCH_CPP_LOG_LEVEL TORCH_SHOW_CPP_STACKTRACES
    TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR XDG_CACHE_HOME XDG_CONFIG_HOME
    XDG_DATA_HOME MPLBACKEND MPLCONFIGDIR DATHVD_CACHE DATHVD_CIFAR10_JPEG
    DATHVD_HOT_EVERY
    """.split())
"""The variables that ranks get over Gloo without being asked for by ``--env``."""
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$|^KEY$|AUTH", re.IGNORECASE)

SSH_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "accept-new",
    "ConnectTimeout": "5",
    "ConnectionAttempts": "1",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
}
"""No questions; a new host's key is noted, a changed one refused; a host that is gone
is noticed within seconds."""


def launch_command(
    options: LaunchOptions,
    worker: Sequence[str],
    *,
    installed: Mapping[str, str],
    environment: Mapping[str, str],
) -> list[str]:
    """The command that starts ``worker`` on every rank: mpirun, or horovodrun for Gloo.

    horovodrun is not used over MPI: it adds a service to each host whose key stands on
    command lines, where all users of the host can read it. Over Gloo it does the same
    unless it is told the interface.

    Args:
        options: What to start.
        worker: One rank's program and its arguments.
        installed: Path of each launcher that is there, by its name.
        environment: What the ranks get; only names reach a command line of MPI.

    Raises:
        UserError: no launcher is there that can start the ranks.
    """
    launcher = choose_launcher(options, installed)
    arguments = LAUNCHERS[launcher].arguments(options, environment)
    return [installed[launcher], *arguments, *worker]


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
            if name in options.forward or name in FORWARDED
        }
    return {**_defaults(options, cores), **environment}


def _defaults(options: LaunchOptions, cores: int) -> dict[str, str]:
    """Settings that are better than the libraries' own; the user's own win."""
    defaults = {
        "PYTHONUNBUFFERED": "1",
        # horovodrun starts interpreters that would import from the current folder
        "PYTHONSAFEPATH": "1",
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
        # a host that has gone is noticed after 30 s instead of eight minutes
        defaults["OMPI_MCA_oob_tcp_keepalive_time"] = "10"
        defaults["OMPI_MCA_oob_tcp_keepalive_intvl"] = "5"
        defaults["OMPI_MCA_oob_tcp_keepalive_probes"] = "4"
        words = [f"-o {name}={value}" for name, value in SSH_OPTIONS.items()]
        words += [f"-p {options.ssh_port}"] if options.ssh_port is not None else []
        if options.ssh_identity_file:
            words.append(f"-i {options.ssh_identity_file}")
        defaults["OMPI_MCA_plm_rsh_args"] = " ".join(words)
    if options.network_interface:
        defaults["NCCL_SOCKET_IFNAME"] = options.network_interface
    most = max((h.slots for h in options.hosts), default=options.num_proc)
    if most > cores:
        # a rank that waits yields its core instead of polling on it
        defaults["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return defaults
