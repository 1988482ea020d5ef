"""What this host has: packages, MPI, devices, memory, names. No other rank is asked."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from dathvd.doctor.finding import Finding

_SETUP = "run: make setup"
_GIB = 1 << 30


def local_findings() -> list[Finding]:
    """All that can be seen from this process alone, in the order of dependence."""
    checks: list[Callable[[], Finding]] = [
        python,
        pins,
        torch_build,
        gpus,
        horovod_build,
        horovod_starts,
        mpi,
        mpi4py_library,
        kernels,
        ssh_client,
        host_name,
        threads,
        memory,
        shared_memory,
        run_folder,
    ]
    return [check() for check in checks]


def python() -> Finding:
    """The interpreter."""
    version = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 11):
        return Finding("Python", version, "FAIL", "use Python 3.11 or newer")
    return Finding("Python", version)


def pins() -> Finding:
    """Installed packages against the versions that dathvd asks for."""
    different = []
    for line in metadata.requires("dathvd") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue  # an extra, or another platform's
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            problem = f"{wanted.name} is not installed"
            return Finding("Packages", problem, "FAIL", _SETUP)
        if not wanted.specifier.contains(found, prereleases=True):
            different.append(f"{wanted.name} {found} (wanted {wanted.specifier})")
    if different:
        return Finding("Packages", ", ".join(different), "warn", _SETUP)
    return Finding("Packages", "versions that dathvd asks for")


def torch_build() -> Finding:
    """torch and what it was built for."""
    try:
        import torch
    except ImportError as error:
        return Finding("torch", f"cannot be imported: {error}", "FAIL", _SETUP)
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Finding("torch", f"{torch.__version__} ({cuda})")


def gpus() -> Finding:
    """GPUs, their memory and NCCL."""
    try:
        import torch
    except ImportError:
        return Finding("GPU", "not looked for: there is no torch", "FAIL", _SETUP)
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            remedy = "install torch's CUDA wheel, or a driver that is new enough for it"
            return Finding("GPU", "there, but torch cannot use it", "warn", remedy)
        return Finding("GPU", "none; training runs on the CPU")
    cards = [
        torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())
    ]
    listed = ", ".join(f"{c.name} {c.total_memory / _GIB:.0f} GiB" for c in cards)
    nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return Finding("GPU", f"{listed}; NCCL {nccl}")


def horovod_build() -> Finding:
    """Horovod and what it was built with."""
    try:
        hvd = importlib.import_module("horovod.torch")
    except Exception as error:  # a wrong build raises anything at all
        reason = " ".join(str(error).split())[:200]
        return Finding("Horovod", f"cannot be imported: {reason}", "FAIL", _SETUP)
    import torch

    version = metadata.version("horovod")
    built = {
        "MPI": bool(hvd.mpi_built()),
        "Gloo": bool(hvd.gloo_built()),
        "NCCL": bool(hvd.nccl_built()),
    }
    value = f"{version} with {', '.join(k for k, there in built.items() if there)}"
    if not (built["MPI"] or built["Gloo"]):
        return Finding("Horovod", f"{version} without MPI and Gloo", "FAIL", _SETUP)
    if torch.cuda.is_available() and not built["NCCL"]:
        return Finding("Horovod", value, "warn", "DATHVD_CUDA=1 make setup, for NCCL")
    return Finding("Horovod", value)


def horovod_starts() -> Finding:
    """One worker started in a process of its own, which may crash or hang."""
    program = "import horovod.torch as hvd; hvd.init(); print(hvd.size())"
    # this process may itself be a rank: the new one must not take itself for it
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMPI_COMM", "PMIX_", "PMI_", "HOROVOD_", "SLURM_"))
    }
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=clean,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return Finding("Start", "hangs", "FAIL", "see that this host's name resolves")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        remedy = "see that this host's name resolves; " + _SETUP
        return Finding("Start", f"fails: {lines[-1][:200]}", "FAIL", remedy)
    return Finding("Start", "one worker starts")


def mpi() -> Finding:
    """mpirun on PATH."""
    version = mpirun_version()
    if version is None:
        remedy = "apt-get install openmpi-bin, or start with --gloo"
        return Finding("MPI", "there is no mpirun", "warn", remedy)
    return Finding("MPI", version)


def mpirun_version() -> str | None:
    """The first line of ``mpirun --version``, None where there is none."""
    try:
        done = subprocess.run(
            ["mpirun", "--version"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else None


def mpi4py_library() -> Finding:
    """Whether mpi4py loads the MPI that mpirun belongs to."""
    program = "from mpi4py import rc; rc.initialize = False; from mpi4py import MPI; "
    program += "print(MPI.Get_library_version().splitlines()[0])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    library = done.stdout.strip().rstrip("\x00")
    if done.returncode != 0 or not library:
        last = (done.stderr.strip().splitlines() or ["no MPI library"])[-1]
        remedy = "apt-get install libopenmpi3, or start with --gloo"
        return Finding("mpi4py", last[:200], "warn", remedy)
    mpirun = (mpirun_version() or "").split()
    if mpirun and mpirun[-1] not in library:
        remedy = "put the mpirun of the same MPI first on PATH"
        value = f"{library[:60]}, but mpirun is {mpirun[-1]}"
        return Finding("mpi4py", value, "FAIL", remedy)
    return Finding("mpi4py", library.partition(",")[0])


def kernels() -> Finding:
    """The compiled loops of codecs and attacks."""
    from dathvd.compression.kernels import target
    from dathvd.convolutions import tiles, winograd

    found = {"codecs": target(), "convolutions": winograd.native.target()}
    if tiles.native.target() == "amx":
        found["bf16"] = "amx"
    if None in found.values():
        remedy = "install g++ and " + _SETUP
        return Finding("Loops", "not compiled; slower", "warn", remedy)
    return Finding("Loops", ", ".join(f"{k} for {v}" for k, v in found.items()))


def ssh_client() -> Finding:
    """ssh, which other hosts' ranks are started over."""
    if shutil.which("ssh") is None:
        remedy = "apt-get install openssh-client, to start ranks (mpirun needs it)"
        return Finding("ssh", "not installed", "warn", remedy)
    return Finding("ssh", "installed")


def host_name() -> Finding:
    """Whether this host's own name resolves: Horovod's Gloo crashes where not."""
    name = socket.gethostname()
    try:
        return Finding("Host", f"{name} is {socket.gethostbyname(name)}")
    except OSError:
        remedy = f"add a line '127.0.0.1 {name}' to /etc/hosts"
        return Finding("Host", f"{name} does not resolve", "FAIL", remedy)


def threads() -> Finding:
    """Cores of this process and how ranks will share them."""
    cores = len(os.sched_getaffinity(0))
    value = f"{cores} cores, shared by the ranks of this host"
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    if fixed.isdigit() and int(fixed) > cores:
        remedy = "unset OMP_NUM_THREADS"
        return Finding("Threads", f"{fixed} on {cores} cores", "warn", remedy)
    if fixed:
        value = f"{fixed} a rank (OMP_NUM_THREADS), {cores} cores"
    return Finding("Threads", value)


def memory() -> Finding:
    """Memory that is free now."""
    import psutil

    state = psutil.virtual_memory()
    value = f"{state.available / _GIB:.1f} of {state.total / _GIB:.1f} GiB free"
    if state.available < 1 * _GIB:
        return Finding("Memory", value, "warn", "free some: a rank needs about 1 GiB")
    return Finding("Memory", value)


def shared_memory() -> Finding:
    """/dev/shm, over which Open MPI's ranks on one host talk."""
    try:
        size = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("/dev/shm", "not there", "warn", "mount a tmpfs on /dev/shm")
    value = f"{size / _GIB:.1f} GiB free"
    if size < _GIB // 8:
        remedy = "give the container more, such as --shm-size=1g"
        return Finding("/dev/shm", value, "warn", remedy)
    return Finding("/dev/shm", value)


def run_folder() -> Finding:
    """Where runs are written by default."""
    folder = Path("runs")
    place = folder if folder.exists() else Path.cwd()
    if not os.access(place, os.W_OK):
        remedy = "go to a folder of yours, or give --run-dir"
        return Finding("Runs", f"{place.resolve()} cannot be written", "FAIL", remedy)
    free = shutil.disk_usage(place).free
    value = f"{folder.resolve()}, {free / _GIB:.0f} GiB free"
    if free < _GIB:
        return Finding("Runs", value, "warn", "free some space, or give --run-dir")
    return Finding("Runs", value)
