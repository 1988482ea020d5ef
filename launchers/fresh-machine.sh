#!/usr/bin/env bash
# Shows the set-up on a new machine: a system made by debootstrap, entered by chroot, into
# which this checkout is copied. Needs root and debootstrap.
#
#   launchers/fresh-machine.sh SUITE [COMMAND]        bookworm | trixie | noble
#
#   COMMAND  what is run in the checkout there     (make train && make test-fast)
#   RUN_AS   root | user: the latter is an ordinary user without sudo, for whom root has
#            installed the system packages before  (root)
#   MACHINE  folder of the machine; one that is there is used again
#                                                  (~/.cache/dathvd/machines/SUITE)
#   SHARE    folders that the machine sees at the same place, such as one of wheels (none)
#   MIRROR   where Debian's or Ubuntu's packages are fetched from
#
# pip's variables (PIP_...), DATHVD_... and the certificates of this machine are taken along.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
suite=${1:?usage: launchers/fresh-machine.sh SUITE [COMMAND]}
command=${2:-make train && make test-fast}
run_as=${RUN_AS:-root}
machine=${MACHINE:-${XDG_CACHE_HOME:-$HOME/.cache}/dathvd/machines/$suite}
certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}

fail() { printf 'fresh-machine: %s\n' "$*" >&2; exit 2; }

case $run_as in root | user) ;; *) fail "RUN_AS=$run_as: expected root or user" ;; esac
[ "$(id -u)" = 0 ] || fail "needs root"

if [ ! -e "$machine/etc/os-release" ]; then
    mkdir -p "$machine"
    "$root/launchers/bootstrap.sh" "$suite" "$machine"
fi
cp /etc/resolv.conf /etc/hosts "$machine/etc/"
[ ! -e "$certificates" ] || cp "$certificates" "$machine/etc/host-certificates.crt"

home=/root
[ "$run_as" = root ] || home=/home/user
checkout=$machine$home/dathvd
mkdir -p "$checkout"
# of an earlier checkout only the environment is kept, which is then set up anew
find "$checkout" -mindepth 1 -maxdepth 1 ! -name .venv -exec rm -rf {} +
rm -f "$checkout/.venv/.setup"
git -C "$root" ls-files -z --cached --others --exclude-standard |
    tar -C "$root" --null --ignore-failed-read -T - -c | tar -C "$checkout" --no-same-owner -x

variables=(HOME="$home" LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    PIP_CERT=/etc/host-certificates.crt SSL_CERT_FILE=/etc/host-certificates.crt)
for name in $(compgen -e | grep -E '^(PIP_|DATHVD_|OMP_|MAKEFLAGS$)' | grep -vx PIP_CERT); do
    variables+=("$name=${!name}")
done

# What the machine does first, as root: the programs that the README asks for, and for an
# ordinary user what only root can install.
prepare="apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ca-certificates git make python3 >/dev/null"
start=(bash -c "cd $home/dathvd && $command")
if [ "$run_as" = user ]; then
    prepare+="
    id user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash user
    chown -R user: $home
    DATHVD_STAGE=system $home/dathvd/launchers/setup.sh"
    start=(su user -c "cd $home/dathvd && $command")
fi

# mounts and processes of its own: nothing is left on this machine when it ends, also
# where this script is ended by a signal
# shellcheck disable=SC2016  # expanded by the shell that reads it
enter='
    machine=$1; share=$2; shift 2
    mount --rbind /dev "$machine/dev"
    mount --bind /sys "$machine/sys"
    mount -t proc proc "$machine/proc"
    for folder in $share; do
        mkdir -p "$machine$folder" && mount --bind "$folder" "$machine$folder"
    done
    exec chroot "$machine" "$@"'
enter() {
    setpriv --pdeathsig=KILL unshare --mount --pid --fork --kill-child \
        bash -ec "$enter" - "$machine" "${SHARE:-}" env -i "${variables[@]}" "$@"
}

enter bash -ec "$prepare"
# shellcheck disable=SC2016
enter bash -c '. /etc/os-release; printf "fresh-machine: %s, %s, %s\n" "$PRETTY_NAME" \
    "$(python3 --version)" "$(g++ --version 2>/dev/null | head -n 1)"'
status=0
started=$SECONDS
enter "${start[@]}" || status=$?
echo "fresh-machine: $suite as $run_as: exit $status after $((SECONDS - started)) s"
exit "$status"
