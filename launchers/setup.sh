#!/usr/bin/env bash
# Sets dathvd up: system packages, a virtual environment, pinned Python packages
# and Horovod built from its source archive. Idempotent; the Makefile and the
# Docker images call it.
#
#   PYTHON              interpreter for the virtual environment   (python3.11, else python3)
#   VENV                the virtual environment                   (.venv beside the Makefile)
#   DATHVD_CACHE        where built wheels are kept               (~/.cache/dathvd)
#   DATHVD_TORCH_INDEX  another wheel index for torch and torchvision alone, such as
#                       https://download.pytorch.org/whl/cpu      (none)
#   DATHVD_TORCH_LOCK   a lock file for these two, where they are not PyPI's   (none)
#   DATHVD_HASHES       1: install only files whose hashes launchers/locks has, 0: go by
#                       versions, as for an index that builds its own files    (1)
#   DATHVD_EXTRAS       extras of the package to install          (dev,test,docs,service)
#   DATHVD_CUDA         1: build Horovod for CUDA and NCCL, 0: not (1 where nvcc and a GPU are)
#   CUDA_HOME           the CUDA toolkit                          (nvcc's on PATH, else the
#                       wheels that NVIDIA publishes, which are installed where needed)
#   DATHVD_STAGE        system | wheel | all: stop after that stage (all);
#                       test-tools: only what the tests drive, such as sshd and Slurm
#   DATHVD_EDITABLE     1: pip install -e, 0: pip install          (1)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${VENV:-$root/.venv}
cache=${DATHVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dathvd}
extras=${DATHVD_EXTRAS-dev,test,docs,service}
stage=${DATHVD_STAGE:-all}
constraints=$root/launchers/constraints.txt
locks=$root/launchers/locks
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

# missing_of PROGRAM=PACKAGE...: the packages whose program is not there
missing_of() {
    local pair
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null || echo "${pair#*=}"
    done
}

missing_packages() { # of those that training needs
    missing_of mpirun=openmpi-bin mpicc=libopenmpi-dev cmake=cmake g++=g++ make=make \
        ssh=openssh-client
    has_headers || echo python3-dev
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

missing_test_tools() { # of those that tests drive; without them these tests are skipped
    missing_of ip=iproute2 tc=iproute2 sshd=openssh-server ssh=openssh-client \
        slurmctld=slurm-wlm slurmd=slurm-wlm sbatch=slurm-wlm munged=munge \
        shellcheck=shellcheck pgrep=procps pg_ctlcluster=postgresql chromium=chromium
    # a file system by inode, which two hosts' old views of a shared disk are made with
    [ -e /usr/include/fuse3/fuse_lowlevel.h ] || echo libfuse3-dev
}

listed() { sort -u | tr '\n' ' '; }

# Sets the array as_root to what a command needs before it to run as root.
become_root() {
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    [ ${#as_root[@]} = 0 ] || sudo -n true 2>/dev/null
}

apt_install() { # apt_install PACKAGE...: as the commands of as_root
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends "$@" >/dev/null
}

install_system_packages() {
    local missing as_root
    missing=$(missing_packages | listed)
    [ -n "${missing// /}" ] || return 0
    become_root ||
        fail "missing system packages: $missing(install them as root: apt-get install -y $missing)"
    command -v apt-get >/dev/null ||
        fail "missing system packages: $missing(there is no apt-get here; install their equivalents)"
    say "installing system packages: $missing"
    # shellcheck disable=SC2086  # a list of names, one word each
    apt_install $missing
    missing=$(missing_packages | listed)
    [ -z "${missing// /}" ] || fail "still missing after apt-get: $missing"
}

# Installs what the tests drive, and starts none of its services, now or at boot: the
# tests start their own. Where it may not, the tests that need it say so and are skipped.
install_test_tools() {
    local missing as_root policy=/usr/sbin/policy-rc.d unit
    missing=$(missing_test_tools | listed)
    [ -n "${missing// /}" ] || return 0
    if ! become_root || ! command -v apt-get >/dev/null; then
        say "not here, so that the tests that drive them are skipped: $missing"
        return 0
    fi
    say "installing what the tests drive: $missing"
    if [ ! -e "$policy" ]; then
        # shellcheck disable=SC2064  # as_root is local: expanded now
        trap "${as_root[*]} rm -f $policy" EXIT
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
    fi
    # shellcheck disable=SC2086  # a list of names, one word each
    apt_install $missing || say "could not be installed: $missing(their tests are skipped)"
    if command -v systemctl >/dev/null; then
        for unit in $(services_of "$missing"); do
            "${as_root[@]}" systemctl --quiet disable "$unit" 2>/dev/null || true
        done
    fi
}

services_of() { # services_of PACKAGES: what they start at boot
    case $1 in *openssh-server*) echo ssh.service ssh.socket ;; esac
    case $1 in *slurm-wlm*) echo slurmctld.service slurmd.service ;; esac
    case $1 in *postgresql*) echo postgresql.service ;; esac
    # slurm-wlm brings munge along
    case $1 in *munge* | *slurm-wlm*) echo munge.service ;; esac
}

pinned() { # the pin of one package in constraints.txt, such as torch==2.13.0
    grep -ixE "$1==[^ ;]+" "$constraints"
}

pip() {
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"
}

# Packages at their pinned versions, with what they need; their files are not compared.
pip_install() {
    pip install -q --constraint "$constraints" "$@"
}

# Exactly the packages of these lock files. Wheels alone: building one from sources would
# bring packages that no lock file names.
install_locked() { # install_locked LOCK... (files, or names in launchers/locks)
    local lock files=() options=()
    for lock in "$@"; do
        [ -f "$lock" ] || lock=$locks/$lock.txt
        [ -f "$lock" ] || fail "no lock file $lock; make lock writes launchers/locks"
        files+=("$lock")
    done
    if [ "${DATHVD_HASHES:-1}" = 1 ]; then
        options=(--only-binary :all: --require-hashes)
        for lock in "${files[@]}"; do options+=(-r "$lock"); done
    else # name==version and, where a package is not for all systems, a marker
        mapfile -t options < <(sed -n 's/^\([a-zA-Z0-9].*[^ ]\) *\\$/\1/p' "${files[@]}")
    fi
    pip install -q --no-deps "${options[@]}" ||
        fail "packages of launchers/locks could not be installed (see above); for an index that builds its own files, DATHVD_HASHES=0 goes by versions alone"
}

# Whether pip is told of files beside an index's, among which torch may be another build.
has_other_places() {
    # not piped to grep -q, which ends the pipe, and with it pip, at the first match
    local settings
    settings=$(pip config list)
    [[ $settings =~ (find-links|extra-index-url)= ]]
}

# torch and what its build needs. Each package comes from one index alone: beside a second
# one, whoever publishes a name there could replace any package.
install_torch() {
    local names
    names=("$(pinned torch)" "$(pinned torchvision)")
    if [ -n "${DATHVD_TORCH_LOCK:-}" ]; then
        [ -f "$DATHVD_TORCH_LOCK" ] || fail "DATHVD_TORCH_LOCK=$DATHVD_TORCH_LOCK: no such file"
        (
            [ -z "${DATHVD_TORCH_INDEX:-}" ] || export PIP_INDEX_URL=$DATHVD_TORCH_INDEX
            install_locked "$DATHVD_TORCH_LOCK"
        )
    elif [ -n "${DATHVD_TORCH_INDEX:-}" ]; then
        pip_install --no-deps --index-url "$DATHVD_TORCH_INDEX" "${names[@]}"
    elif ! has_other_places; then
        install_locked torch
        return
    fi
    [ -n "${DATHVD_TORCH_LOCK:-}" ] ||
        say "torch may be another build than PyPI's: its files are not compared with hashes (DATHVD_TORCH_LOCK names a lock file for them)"
    pip_install "${names[@]}" # and what that build needs and launchers/locks/base.txt lacks
}

# The CUDA toolkit: CUDA_HOME, or that of the nvcc on PATH, or the one that NVIDIA's
# wheels lay into the environment.
cuda_home() {
    local nvcc
    for nvcc in "${CUDA_HOME:-/nowhere}/bin/nvcc" "$(command -v nvcc)" \
        "$venv"/lib/python3*/site-packages/nvidia/cu*/bin/nvcc; do
        if [ -x "$nvcc" ]; then
            dirname "$(dirname "$(readlink -f "$nvcc")")"
            return
        fi
    done
    return 1
}

build_cuda() {
    if [ -n "${DATHVD_CUDA:-}" ]; then
        [ "$DATHVD_CUDA" = 1 ]
    else
        cuda_home >/dev/null && command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1
    fi
}

# Installs NVIDIA's wheels of the compiler where the build needs one and none is found.
install_cuda_toolkit() {
    local home
    build_cuda || return 0
    if ! cuda_home >/dev/null; then
        say "installing the CUDA compiler from PyPI"
        install_locked cuda
    fi
    home=$(cuda_home) || fail "DATHVD_CUDA=1 needs nvcc (the CUDA toolkit), which was not found"
    case $home in
    "$venv"/*) # names by which nvcc and the linker ask, and which the wheels leave out
        [ -e "$home/lib64" ] || ln -s lib "$home/lib64"
        [ -e "$home/lib/libcudart.so" ] ||
            ln -s "$(basename "$home"/lib/libcudart.so.*)" "$home/lib/libcudart.so"
        ;;
    esac
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
        build_cuda && { "$(cuda_home)/bin/nvcc" --version | tail -n 1; } || echo "no CUDA"
        declare -f patch_horovod
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

# What Horovod's sources lack for the compilers and the torch of today.
patch_horovod() { # patch_horovod SOURCES
    # torch >= 2.1 needs C++17; Horovod's own lists ask for 14, and for 11 of nvcc
    sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' \
        "$1/CMakeLists.txt" "$1/horovod/torch/CMakeLists.txt"
    sed -i 's/CMAKE_CUDA_STANDARD 11/CMAKE_CUDA_STANDARD 17/' \
        "$1/horovod/common/ops/cuda/CMakeLists.txt"
    # the headers of GCC 13 and later no longer bring these along
    sed -i '0,/#include <string>/s//#include <stdexcept>\n&/' "$1/horovod/common/common.h"
    sed -i '0,/#include <queue>/s//&\n#include <string>/' "$1/horovod/common/group_table.h"
    # GCC 14 refuses that a class assigns to its own constants
    sed -i 's/const size_type count_;/size_type count_;/; s/pointer const data_;/pointer data_;/' \
        "$1/third_party/flatbuffers/include/flatbuffers/stl_emulation.h"
}

# Horovod builds for CUDA wherever torch is built for it and an nvcc is found, also where
# that was not asked for, or where the toolkit's headers are missing and the build fails.
leave_out_cuda() { # leave_out_cuda SOURCES
    local file=$1/cmake/Modules/FindPytorch.cmake
    sed -i 's/^string(TOUPPER .*Pytorch_CUDA)$/&\nset(Pytorch_CUDA FALSE)/' "$file"
    grep -q '^set(Pytorch_CUDA FALSE)$' "$file" || fail "$file: does not say whether torch has CUDA"
}

build_horovod() { # build_horovod DIR: leaves the wheel in DIR; runs in a subshell
    local gpu=() nccl cuda wheel
    work=$(mktemp -d "${TMPDIR:-/tmp}/horovod-build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "horovod==$horovod_version --hash=sha256:$horovod_sha256" >"$work/requirements.txt"
    pip download -q --no-deps --no-binary :all: --no-build-isolation --require-hashes \
        -d "$work" -r "$work/requirements.txt"
    tar -xzf "$work/horovod-$horovod_version.tar.gz" -C "$work"
    patch_horovod "$work/horovod-$horovod_version"
    if build_cuda; then
        nccl=$(nccl_of_torch)
        cuda=$(cuda_home)
        gpu=(HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED HOROVOD_CUDA_HOME="$cuda"
            CUDA_HOME="$cuda" CUDAToolkit_ROOT="$cuda"
            HOROVOD_NCCL_INCLUDE="$nccl/include" HOROVOD_NCCL_LIB="$nccl/lib")
    else
        leave_out_cuda "$work/horovod-$horovod_version"
    fi
    env PATH="$venv/bin:$PATH" "${gpu[@]}" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 MAKEFLAGS="-j$(nproc)" \
        "$venv/bin/python" -m pip wheel -q --no-deps --no-build-isolation \
        -w "$work/wheel" "$work/horovod-$horovod_version" >"$work/log" 2>&1 || {
        # compilers report first, and pip's own lines end the log
        grep -m 8 -A 4 -E 'error:|CMake Error' "$work/log" >&2
        tail -n 20 "$work/log" >&2
        fail "Horovod $horovod_version did not build (errors and the end of its log are above)"
    }
    wheel=$(basename "$work"/wheel/horovod-*.whl)
    mkdir -p "$1"
    mv "$work/wheel/$wheel" "$1/$wheel.partial" # may cross file systems
    mv "$1/$wheel.partial" "$1/$wheel"
}

install_horovod() {
    local key wheels
    install_cuda_toolkit
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
    cat "$root/launchers/setup.sh" "$constraints" "$locks"/*.txt "$root/setup.cfg" "$root/pyproject.toml" \
        "${files[@]}" | sha256sum | cut -c 1-16
    echo "$root $extras ${DATHVD_EDITABLE:-1} $(horovod_key)"
}

horovod_version=$(pinned horovod) && horovod_version=${horovod_version#horovod==}
if [ "$stage" = test-tools ]; then
    install_test_tools
    exit 0
fi
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
install_locked bootstrap
install_locked base
install_torch
install_horovod
[ "$stage" != wheel ] || exit 0
read -ra wanted <<<"${extras//,/ }"
[ ${#wanted[@]} = 0 ] || install_locked "${wanted[@]}"
editable=()
[ "${DATHVD_EDITABLE:-1}" != 1 ] || editable=(-e)
pip install -q --no-deps --no-build-isolation "${editable[@]}" "$root"
# where Python may write no bytecode, each worker would compile the package anew
python -m compileall -qq "$root/dathvd" || true
fingerprint >"$venv/.setup"
say "done: $venv"
