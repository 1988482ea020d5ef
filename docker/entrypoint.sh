#!/bin/sh
# Starts a container: "sshd" waits for ranks that other containers start here; with
# DATHVD_SSHD=1 sshd runs beside the command; else the command alone. "healthy" says
# whether the container's sshd answers, where it has one.
#
# ~/.ssh holds the key pair of the ranks and, where it can be written, the key of the
# hosts: a volume that the containers share. A mounted secret holds one pair, which then
# serves for both. Hosts are known by their key either way.
set -eu

shared=$HOME/.ssh
own=$HOME/.sshd # of this container alone

fail() { echo "entrypoint: $*" >&2; exit 1; }

client_key() { # the ranks' private key; the MPI operator mounts one as id_rsa
    for name in id_ed25519 id_ecdsa id_rsa; do
        if [ -e "$shared/$name" ]; then
            echo "$shared/$name"
            return
        fi
    done
    return 1
}

make_keys() { # one container does it; its lock ends with it, however it ends
    [ -w "$shared" ] || fail "no key in $shared, and it cannot be written"
    exec 9>"$shared/.lock"
    flock -w 60 9 || fail "another container holds $shared/.lock for a minute"
    if ! client_key >/dev/null; then
        rm -f "$shared"/.new* "$shared/host_key" "$shared/host_key.pub"
        ssh-keygen -q -t ed25519 -N '' -C host -f "$shared/host_key"
        ssh-keygen -q -t ed25519 -N '' -C ranks -f "$shared/.new"
        cp "$shared/.new.pub" "$shared/authorized_keys"
        mv "$shared/.new.pub" "$shared/id_ed25519.pub"
        mv "$shared/.new" "$shared/id_ed25519" # last: it says that all is there
    fi
    exec 9>&-
}

know_hosts() { # this container's host key, and the same key as that of all others
    (
        umask 077
        mkdir -p "$own"
        rm -f "$own/host_key" "$own/serves"
        if [ -e "$shared/host_key" ]; then
            cp "$shared/host_key" "$own/host_key"
        else
            cp "$(client_key)" "$own/host_key"
        fi
        printf '* %s\n' "$(ssh-keygen -y -f "$own/host_key")" >"$own/known_hosts"
    )
}

answers() { # whether this container's sshd does
    ssh-keyscan -T 5 -p 2222 localhost 2>/dev/null | grep -q .
}

case ${1:-} in
sshd)
    client_key >/dev/null || make_keys
    know_hosts
    : >"$own/serves" # sshd removes its pid file when it ends; this stays
    exec /usr/sbin/sshd -D -e -f "$HOME/.sshd_config"
    ;;
healthy)
    [ ! -e "$own/serves" ] || answers
    ;;
*)
    if [ "${DATHVD_SSHD:-0}" = 1 ]; then
        client_key >/dev/null || make_keys
        know_hosts
        : >"$own/serves"
        /usr/sbin/sshd -f "$HOME/.sshd_config"
        tries=0
        until answers; do # sshd goes to the background before it listens
            tries=$((tries + 1))
            [ "$tries" -lt 100 ] || fail "sshd does not answer on port 2222"
            sleep 0.1
        done
    elif client_key >/dev/null; then
        know_hosts
    fi
    exec "$@"
    ;;
esac
