"""Which environment variables reach the launcher and the ranks: an exact list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dathvd.errors import UserError
from dathvd.launch.options import LaunchOptions

# A pattern of names would let a secret through, and over Gloo horovodrun writes every
# variable's value on each rank's command line, where all users of a host can read it.
FORWARDED = frozenset("""
    PATH HOME USER LOGNAME SHELL TZ TMPDIR LD_LIBRARY_PATH LD_PRELOAD TERM NO_COLOR
    LANG LC_ALL LC_CTYPE LC_NUMERIC LC_TIME LC_COLLATE LC_MESSAGES
    VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONUNBUFFERED PYTHONHASHSEED PYTHONWARNINGS
    PYTHONFAULTHANDLER PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX PYTHONSAFEPATH
    PYTHONIOENCODING PYTHONUTF8 PYTHONNOUSERSITE PYTHONTRACEMALLOC
    OMP_NUM_THREADS OMP_PROC_BIND OMP_PLACES OMP_SCHEDULE OMP_DYNAMIC OMP_WAIT_POLICY
    KMP_AFFINITY KMP_BLOCKTIME GOMP_CPU_AFFINITY GOMP_SPINCOUNT
    MKL_NUM_THREADS MKL_DYNAMIC MKL_ENABLE_INSTRUCTIONS MKL_CBWR
    OPENBLAS_NUM_THREADS OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
    ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA
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
    HOROVOD_DYNAMIC_PROCESS_SETS
    HOROVOD_FUSION_THRESHOLD HOROVOD_HIERARCHICAL_ALLREDUCE
    HOROVOD_HIERARCHICAL_ALLGATHER HOROVOD_LOG_LEVEL HOROVOD_LOG_HIDE_TIME
    HOROVOD_MPI_THREADS_DISABLE HOROVOD_NUM_NCCL_STREAMS
    HOROVOD_STALL_CHECK_DISABLE HOROVOD_STALL_CHECK_TIME_SECONDS
    HOROVOD_STALL_SHUTDOWN_TIME_SECONDS HOROVOD_THREAD_AFFINITY HOROVOD_TIMELINE
    HOROVOD_TIMELINE_MARK_CYCLES HOROVOD_GLOO_TIMEOUT_SECONDS HOROVOD_START_TIMEOUT
    PYTORCH_CUDA_ALLOC_CONF PYTORCH_ALLOC_CONF SSL_CERT_FILE SSL_CERT_DIR KRB5CCNAME
    TORCH_HOME TORCH_NUM_THREADS TORCH_CPP_LOG_LEVEL TORCH_SHOW_CPP_STACKTRACES
    TORCHINDUCTOR_CACHE_DIR TRITON_CACHE_DIR XDG_CACHE_HOME XDG_CONFIG_HOME
    XDG_DATA_HOME MPLBACKEND MPLCONFIGDIR DATHVD_CACHE DATHVD_CIFAR10_JPEG
    DATHVD_HOT_EVERY
    """.split())
"""The variables that ranks get without being asked for by ``--env``."""
LAUNCHER_ONLY = frozenset("""
    SSH_AUTH_SOCK
    SLURM_CONF SLURM_JOBID SLURM_JOB_ID SLURM_NODELIST SLURM_JOB_NODELIST SLURM_NNODES
    SLURM_JOB_NUM_NODES SLURM_TASKS_PER_NODE SLURM_JOB_CPUS_PER_NODE SLURM_NTASKS
    SLURM_NPROCS SLURM_CPUS_PER_TASK SLURM_NTASKS_PER_NODE SLURM_CLUSTER_NAME
    LSB_JOBID LSB_DJOB_HOSTFILE LSB_MCPU_HOSTS LSB_HOSTS LSB_AFFINITY_HOSTFILE
    LSF_ENVDIR LSF_BINDIR LSF_LIBDIR LSF_SERVERDIR
    PBS_ENVIRONMENT PBS_JOBID PBS_NODEFILE SGE_ROOT ARC PE_HOSTFILE JOB_ID
    OPAL_PREFIX OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
    """.split())
"""What the program that starts ranks reads itself: how to reach hosts, and which hosts
an engine gave it. Ranks have no use for it."""
MPI_SETTING = re.compile(r"(OMPI|PMIX|PRTE)_MCA_\w+")
"""Names of MPI's own settings, of which everyone has others."""
_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|_KEY$|^KEY$|AUTH", re.IGNORECASE)


def check_forwarded(environ: Mapping[str, str], options: LaunchOptions) -> None:
    """See that the variables that are asked for can be forwarded.

    Raises:
        UserError: one is not set, or its value is a secret that would stand on command
            lines.
    """
    for name in options.forward:
        if name not in environ:
            raise UserError(f"--env {name}: this variable is not set")
        if options.controller == "gloo" and _SECRET.search(name):
            raise UserError(
                f"--env {name}: over Gloo its value would stand on command lines "
                "that other users can read (use --mpi)"
            )


def for_launcher(environ: Mapping[str, str], options: LaunchOptions) -> dict[str, str]:
    """What the program that starts the ranks gets of an environment.

    Over Gloo that is what the ranks get, as horovodrun hands on all that it has.
    """
    names = {*FORWARDED, *options.forward}
    over_mpi = options.controller != "gloo"
    names |= LAUNCHER_ONLY if over_mpi else set()
    return {
        name: value
        for name, value in environ.items()
        if name in names or (over_mpi and MPI_SETTING.fullmatch(name))
    }


def for_engine(environ: Mapping[str, str], asked: Iterable[str]) -> list[str]:
    """Names of the set variables that a batch engine is to hand on to a job, sorted.

    Args:
        environ: the submitter's environment.
        asked: further names.

    Raises:
        UserError: one that is asked for is not set.
    """
    asked = list(asked)
    for name in asked:
        if name not in environ:
            raise UserError(f"{name}: this variable is not set")
    known = {name for name in environ if MPI_SETTING.fullmatch(name)}
    return sorted({*asked, *known, *(FORWARDED & environ.keys())})


def is_for_ranks(name: str) -> bool:
    """Whether a variable of the launcher's is one that ranks on other hosts get too."""
    return not (name in LAUNCHER_ONLY or MPI_SETTING.fullmatch(name))


def for_rank(environ: Mapping[str, str]) -> dict[str, str]:
    """A rank's environment on the host of the launcher, which it inherits from it."""
    return {name: text for name, text in environ.items() if name != "SSH_AUTH_SOCK"}
