#!/usr/bin/env bash
# A Slurm on this machine alone, for trying the job script out. Needs root, slurm-wlm
# and munge; everything it makes is in one folder, nothing in /etc.
#
#   launchers/slurm/one-machine.sh up DIR      then   export SLURM_CONF=DIR/slurm.conf
#   launchers/slurm/one-machine.sh down DIR
#
#   TASKS  how many ranks may run at once (4)
set -euo pipefail

fail() { printf 'one-machine: %s\n' "$*" >&2; exit 2; }

free_ports() {
    python3 -c 'import socket
sockets = [socket.socket() for _ in range(2)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))'
}

up() {
    local dir=$1 host ports
    [ "$(id -u)" = 0 ] || fail "needs root"
    for program in munged slurmctld slurmd; do
        command -v "$program" >/dev/null ||
            fail "$program is not installed (apt-get install slurm-wlm munge)"
    done
    mkdir -p "$dir/state" "$dir/spool" "$dir/munge"
    dir=$(cd "$dir" && pwd)
    host=$(hostname -s)
    # a requeued job waits until its old credential has expired: seconds here, not minutes
    read -ra ports <<<"$(free_ports)"
    (umask 077 && head -c 1024 /dev/urandom >"$dir/munge/key")
    cat >"$dir/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=10
SchedulerParameters=batch_sched_delay=1,sched_interval=5,requeue_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=${TASKS:-4} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
        --pid-file="$dir/munge.pid" --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" \
        2>"$dir/munge/start.log"
    slurmctld -f "$dir/slurm.conf"
    slurmd -f "$dir/slurm.conf" -N "$host"
    export SLURM_CONF=$dir/slurm.conf
    for _ in $(seq 60); do
        ! sinfo -h -o %t 2>/dev/null | grep -q idle || return 0
        sleep 0.5
    done
    tail -n 5 "$dir/slurmctld.log" "$dir/slurmd.log" >&2
    down "$dir"
    fail "Slurm did not come up (the ends of its logs are above)"
}

# jobs would outlive the Slurm that could end them
cancel_jobs() {
    local jobs
    for _ in $(seq 30); do
        mapfile -t jobs < <(timeout 5 squeue -h -o %A 2>/dev/null)
        [ "${#jobs[@]}" != 0 ] || return 0
        timeout 5 scancel "${jobs[@]}" 2>/dev/null || true
        sleep 0.5
    done
}

# a step's own daemon goes on asking for the Slurm that it cannot reach any more
end_steps() {
    local dir=$1 process
    for process in /proc/[0-9]*; do
        [ "$(cat "$process/comm" 2>/dev/null)" = slurmstepd ] || continue
        [ "$(readlink "$process/cwd")" != "$dir" ] || kill -9 "${process#/proc/}" || true
    done
}

down() {
    local dir name pid
    dir=$(cd "$1" && pwd)
    export SLURM_CONF=$dir/slurm.conf
    if kill -0 "$(cat "$dir/slurmctld.pid" 2>/dev/null)" 2>/dev/null; then
        cancel_jobs
    fi
    for name in slurmd slurmctld munge; do
        pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
        kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2>/dev/null || true
    done
    end_steps "$dir"
}

case ${1:-} in
up) up "${2:?usage: one-machine.sh up DIR}" ;;
down) down "${2:?usage: one-machine.sh down DIR}" ;;
*) fail "expected up DIR or down DIR" ;;
esac
