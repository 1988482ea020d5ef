#!/usr/bin/env bash
# Sets dathvd up: system packages, a virtual environment, pinned Python packages
# and Horovod built from its source archive. Idempotent; the Makefile and the
# Docker images call it.
#
#   PYTHON              interpreter for the virtual environment   (python3.11, else python3)
#   VENV                the virtual environment                   (.venv beside the Makefile)
#   DATHVD_CACHE        where built wheels are kept               (~/.cache/dathvd)
#   DATHVD_TORCH_INDEX  a further wheel index for torch, such as
#                       https://download.pytorch.org/whl/cpu      (none)
#   DATHVD_EXTRAS       extras of the package to install          (dev,test,docs)
#   DATHVD_CUDA         1: build Horovod for CUDA and NCCL, 0: not (1 where nvcc and a GPU are)
#   DATHVD_STAGE        system | wheel | all: stop after that stage (all)
#   DATHVD_EDITABLE     1: pip install -e, 0: pip install          (1)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
cache=${DATHVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dathvd}
extras=${DATHVD_EXTRAS-dev,test,docs}
stage=${DATHVD_STAGE:-all}
constraints=$root/launchers/constraints.txt
horovod_version=0.28.1
horovod_sha256=92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 2; }

interpreter() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if command -v "$candidate" >/dev/null && "$candidate" -c \
            'import sys; sys.exit(sys.version_info[:2] < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and was not found; name one with PYTHON=..."
}

has_headers() { # the interpreter's C headers, which the extensions are compiled against
    "$python" -c 'import os, sys, sysconfig as s
sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))'
}

missing_packages() {
    command -v mpirun >/dev/null || echo openmpi-bin
    command -v mpicc >/dev/null || echo libopenmpi-dev
    command -v cmake >/dev/null || echo cmake
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    command -v ssh >/dev/null || echo openssh-client
    has_headers || echo python3-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

install_system_packages() {
    local missing sudo=()
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    [ -n "${missing// /}" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null ||
            fail "missing system packages: $missing(install them as root: apt-get install -y $missing)"
        sudo=(sudo -n)
    fi
    command -v apt-get >/dev/null ||
        fail "missing system packages: $missing(there is no apt-get here; install their equivalents)"
    say "installing system packages: $missing"
    "${sudo[@]}" apt-get update -qq
    # shellcheck disable=SC2086  # a list of names, one word each
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $missing >/dev/null
    missing=$(missing_packages | sort -u | tr '\n' ' ')
    [ -z "${missing// /}" ] || fail "still missing after apt-get: $missing"
}

pinned() { # the pin of one package in setup.cfg, such as torch==2.13.0
    grep -oE "^ +$1==[^ ;]+" "$root/setup.cfg" | head -n 1 | tr -d ' '
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

pip_install() {
    pip install -q --constraint "$constraints" \
        ${DATHVD_TORCH_INDEX:+--extra-index-url "$DATHVD_TORCH_INDEX"} "$@"
}

build_cuda() {
    if [ "${DATHVD_CUDA:-}" = 1 ]; then
        command -v nvcc >/dev/null || fail "DATHVD_CUDA=1 needs nvcc (the CUDA toolkit), which is not on PATH"
    elif [ -n "${DATHVD_CUDA:-}" ]; then
        return 1
    else
        command -v nvcc >/dev/null && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
    fi
}

# Everything that the wheel is built against: another value is another wheel.
horovod_key() {
    {
        echo "$horovod_sha256 cxx17"
        # torch/version.py alone: importing all of torch takes seconds
        "$venv/bin/python" -c 'import os, runpy, sys, sysconfig, importlib.util as u
torch = os.path.dirname(u.find_spec("torch").origin)
version = runpy.run_path(os.path.join(torch, "version.py"))
print(sys.implementation.cache_tag, sysconfig.get_platform(), version["__version__"],
      version["cuda"])'
        getconf GNU_LIBC_VERSION
        mpirun --version | head -n 1
        g++ -dumpfullversion
        build_cuda && nvcc --version | tail -n 1 || echo "no CUDA"
    } | sha256sum | cut -c 1-16
}

# The NCCL that torch's CUDA wheel brings: one process must not hold two of them.
nccl_of_torch() {
    local nccl
    nccl=$("$venv/bin/python" -c 'import nvidia.nccl as n; print(list(n.__path__)[0])') ||
        fail "DATHVD_CUDA=1 needs a torch built for CUDA, and this one brings no NCCL"
    [ -e "$nccl/lib/libnccl.so" ] || ln -s libnccl.so.2 "$nccl/lib/libnccl.so"
    echo "$nccl"
}

build_horovod() { # build_horovod DIR: leaves the wheel in DIR; runs in a subshell
    local gpu=() nccl wheel
    work=$(mktemp -d "${TMPDIR:-/tmp}/horovod-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "horovod==$horovod_version --hash=sha256:$horovod_sha256" >"$work/requirements.txt"
    pip download -q --no-deps --no-binary :all: --no-build-isolation --require-hashes \
        -d "$work" -r "$work/requirements.txt"
    tar -xzf "$work/horovod-$horovod_version.tar.gz" -C "$work"
    # torch >= 2.1 needs C++17; Horovod's own lists ask for 14
    sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' \
        "$work/horovod-$horovod_version/CMakeLists.txt" \
        "$work/horovod-$horovod_version/horovod/torch/CMakeLists.txt"
    sed -i 's/CMAKE_CUDA_STANDARD 11/CMAKE_CUDA_STANDARD 17/' \
        "$work/horovod-$horovod_version/horovod/common/ops/cuda/CMakeLists.txt"
    if build_cuda; then
        nccl=$(nccl_of_torch)
        gpu=(HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED
            HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$nccl/lib")
    fi
    env PATH="$venv/bin:$PATH" "${gpu[@]}" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS="-j$(nproc)" \
        "$venv/bin/python" -m pip wheel -q --no-deps --no-build-isolation \
        -w "$work/wheel" "$work/horovod-$horovod_version" >"$work/log" 2>&1 || {
        tail -n 40 "$work/log" >&2
        fail "Horovod $horovod_version did not build (the end of its log is above)"
    }
    wheel=$(basename "$work"/wheel/horovod-*.whl)
    mkdir -p "$1"
    mv "$work/wheel/$wheel" "$1/$wheel.partial" # may cross file systems
    mv "$1/$wheel.partial" "$1/$wheel"
}

install_horovod() {
    local key wheels
    key=$(horovod_key)
    wheels=$cache/wheels/$key
    if ! ls "$wheels"/horovod-*.whl >/dev/null 2>&1; then
        say "building Horovod $horovod_version (about five minutes, once; kept in $wheels)"
        (build_horovod "$wheels")
    fi
    if [ "$(cat "$venv/.horovod" 2>/dev/null)" != "$key" ]; then
        pip_install --no-deps --force-reinstall "$wheels"/horovod-*.whl
        echo "$key" >"$venv/.horovod"
    fi
}

fingerprint() { # of all that decides what the environment holds
    local files=()
    mapfile -t files < <(find "$root/setup.py" "$root/dathvd" -name '*.cpp' -o -name '*.h' -o -name setup.py 2>/dev/null | sort)
    cat "$root/launchers/setup.sh" "$constraints" "$root/setup.cfg" "$root/pyproject.toml" \
        "${files[@]}" | sha256sum | cut -c 1-16
    echo "$root $extras ${DATHVD_EDITABLE:-1} $(horovod_key)"
}

python=$(interpreter)
install_system_packages
[ "$stage" != system ] || exit 0

mkdir -p "$cache/wheels" 2>/dev/null || true
[ -w "$cache/wheels" ] ||
    fail "cannot write to the cache $cache; name another with DATHVD_CACHE=..."
exec 8>"$cache/setup.lock" # two set-ups at once would undo each other's work
flock 8
if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.setup" 2>/dev/null)" = "$(fingerprint 2>/dev/null)" ]; then
    say "up to date: $venv"
    exit 0
fi
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "creating $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
say "installing Python packages"
pip_install pip setuptools wheel
pip_install "$(pinned torch)" "$(pinned numpy)" cloudpickle psutil pyyaml packaging
install_horovod
[ "$stage" != wheel ] || exit 0
if [ "${DATHVD_EDITABLE:-1}" = 1 ]; then
    pip_install --no-build-isolation -e "$root${extras:+[$extras]}"
else
    pip_install --no-build-isolation "$root${extras:+[$extras]}"
fi
fingerprint >"$venv/.setup"
say "done: $venv"
