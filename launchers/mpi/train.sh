#!/usr/bin/env bash
# Trains with plain mpirun, where neither dathvd launch nor Horovod's launcher is wanted.
# On SIGTERM mpirun ends the ranks, which get a minute to save; nothing starts them again
# (dathvd launch --max-restarts does, and looks after hosts, logs and hangs).
#
#   launchers/mpi/train.sh [ARGUMENTS of dathvd train]                  this machine
#   HOSTFILE=launchers/mpi/hosts.example launchers/mpi/train.sh ...     more machines
#
#   NP         number of ranks                      (all slots of HOSTFILE, else 2)
#   HOSTFILE   lines such as: node1 slots=4
#   INTERFACE  network interface between the hosts, such as eth0
#   VENV       the environment, at the same path on all hosts  (.venv of the checkout)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="${VENV:-$root/.venv}/bin:$PATH"
options=(--bind-to none -x PATH -mca odls_base_sigkill_timeout 60)
if [ -n "${HOSTFILE:-}" ]; then
    # send only: the default protocol serialises the two directions of a link
    options+=(--hostfile "$HOSTFILE" -mca btl_tcp_flags 1)
    [ -z "${NP:-}" ] || options+=(-np "$NP")
else
    options+=(--oversubscribe -np "${NP:-2}")
fi
if [ -n "${INTERFACE:-}" ]; then
    options+=(-mca btl_tcp_if_include "$INTERFACE" -mca oob_tcp_if_include "$INTERFACE")
fi
[ "$(id -u)" != 0 ] || options+=(--allow-run-as-root)
exec mpirun "${options[@]}" dathvd train "$@"
