#!/usr/bin/env bash
# Makes a small system of a Debian or Ubuntu release in a folder; needs root and debootstrap.
#
#   launchers/bootstrap.sh SUITE DIR      such as bookworm, trixie (Debian), noble (Ubuntu)
#
#   MIRROR  where packages are fetched from   (http://deb.debian.org/debian, or
#                                              http://archive.ubuntu.com/ubuntu)
set -euo pipefail

suite=${1:?usage: launchers/bootstrap.sh SUITE DIR}
dir=${2:?usage: launchers/bootstrap.sh SUITE DIR}
scripts=/usr/share/debootstrap/scripts
ubuntu_keys=/usr/share/keyrings/ubuntu-archive-keyring.gpg

fail() { printf 'bootstrap: %s\n' "$*" >&2; exit 2; }

[ "$(id -u)" = 0 ] || fail "needs root"
command -v debootstrap >/dev/null ||
    fail "debootstrap is not installed (apt-get install debootstrap)"

options=(--variant=minbase)
script=()
case $suite in
buster | bullseye | bookworm | trixie | forky | sid | stable | testing)
    mirror=${MIRROR:-http://deb.debian.org/debian}
    sources="deb $mirror $suite main"
    ;;
*)
    mirror=${MIRROR:-http://archive.ubuntu.com/ubuntu}
    options+=("--components=main,universe")
    sources=$(printf 'deb %s %s main universe\n' "$mirror" "$suite" "$mirror" "$suite-updates" \
        "$mirror" "$suite-security")
    # every release of Ubuntu is made by the script of an old one
    [ -e "$scripts/$suite" ] || script=("$scripts/gutsy")
    if [ ! -e "$ubuntu_keys" ]; then
        echo "bootstrap: no $ubuntu_keys here: the first packages come unchecked" >&2
        options+=(--no-check-gpg)
    fi
    ;;
esac
log=$(mktemp)
trap 'rm -f "$log"' EXIT
debootstrap "${options[@]}" "$suite" "$dir" "$mirror" "${script[@]}" >"$log" 2>&1 || {
    tail -n 5 "$log" >&2
    fail "debootstrap $suite failed (the end of its log is above)"
}
printf '%s\n' "$sources" >"$dir/etc/apt/sources.list"
rm -rf "$dir"/var/cache/apt/archives/*.deb "$dir"/var/lib/apt/lists/*
