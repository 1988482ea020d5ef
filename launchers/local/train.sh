#!/usr/bin/env bash
# Trains on this machine:   launchers/local/train.sh [ARGUMENTS of dathvd train]
#
#   NP    number of ranks     (the GPUs of this machine, else 2)
#   VENV  the environment     (.venv of the checkout)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="${VENV:-$root/.venv}/bin:$PATH"
gpus=$({ nvidia-smi -L 2>/dev/null || true; } | wc -l)
exec dathvd launch -np "${NP:-$((gpus > 0 ? gpus : 2))}" --max-restarts 2 -- train "$@"
