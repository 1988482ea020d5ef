#!/usr/bin/env bash
# Writes launchers/locks/*.txt: every package that set-up may install, at the version of
# constraints.txt, with the hashes of all files that PyPI has of it (uv pip compile).
# Run it after a change of setup.cfg or constraints.txt:   make lock
#
#   bootstrap.txt  what installs packages        cuda.txt  NVIDIA's compiler
#   base.txt       what training needs, but for  torch.txt  torch and what PyPI's builds of
#                                                           it need, such as NVIDIA's libraries
#   dev.txt, test.txt, …                         what an extra of setup.cfg adds
#   tools.txt      what make sbom and make audit run (tools.in)
#
#   PYTHON   interpreter that runs uv            (python3)
set -euo pipefail

uv_version=0.13.8
oldest_python=3.11
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
locks=$root/launchers/locks
work=$(mktemp -d "${TMPDIR:-/tmp}/lock.XXXXXX")
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install -q "uv==$uv_version"

compile() { # compile OUTPUT SOURCE [OPTION...]
    "$work/venv/bin/uv" pip compile -q --universal --python-version "$oldest_python" \
        --generate-hashes --no-annotate --no-header -o "$work/$1" "${@:2}"
}

pinned() { # the same, at the versions of constraints.txt
    compile "$@" -c "$root/launchers/constraints.txt"
}

names() { sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' "$@"; }

without() { # without FILE...: the options that leave out the packages of these files
    names "$@" | sed 's/^/--no-emit-package=/'
}

of_torch() { names "$1" | grep -E '^(torch|torchvision|triton|nvidia-.*|cuda-.*)$'; }

cd "$root"
pinned whole.txt setup.cfg
mapfile -t torch < <(of_torch "$work/whole.txt" | sed 's/^/--no-emit-package=/')
pinned base.txt setup.cfg "${torch[@]}"
mapfile -t base < <(without "$work/base.txt")
pinned torch.txt setup.cfg "${base[@]}"
echo pip setuptools wheel | tr ' ' '\n' >"$work/bootstrap.in"
pinned bootstrap.txt "$work/bootstrap.in"
echo 'cuda-toolkit[nvcc,nvvm,crt,cudart,cccl]' >"$work/cuda.in"
pinned cuda.txt "$work/cuda.in"
compile tools.txt launchers/tools.in
mapfile -t has < <(without "$work/whole.txt")
extras=$(sed -n '/^\[options.extras_require\]/,/^\[options.packages/s/^\([a-z]*\) =$/\1/p' setup.cfg)
for extra in $extras; do
    options=("${has[@]}")
    # tests need triton where a build of torch for CPUs brings none
    [ "$extra" != test ] || options=("${options[@]/#*=triton/--no-emit-package=torch}")
    [ "$extra" = horovod ] || pinned "$extra.txt" setup.cfg --extra "$extra" "${options[@]}"
done

mkdir -p "$locks"
rm -f "$locks"/*.txt
for file in "$work"/*.txt; do
    [ "$(basename "$file")" = whole.txt ] || {
        echo '# Written by launchers/lock.sh.'
        cat "$file"
    } >"$locks/$(basename "$file")"
done
