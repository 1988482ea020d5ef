#!/bin/sh
# Starts a container: "sshd" waits for ranks that other containers start here; with
# DATHVD_SSHD=1 sshd runs beside the command; else the command alone.
# The key pair is in ~/.ssh: a volume that the containers share, or a mounted secret.
set -eu

make_key() {
    key=$HOME/.ssh/id_ecdsa
    # one container makes the key, the others wait for it
    if mkdir "$HOME/.ssh/.making" 2>/dev/null && [ ! -e "$key" ]; then
        ssh-keygen -q -t ecdsa -N '' -f "$HOME/.ssh/.new"
        cp "$HOME/.ssh/.new.pub" "$HOME/.ssh/authorized_keys"
        mv "$HOME/.ssh/.new.pub" "$key.pub"
        mv "$HOME/.ssh/.new" "$key"
    fi
    tries=0
    while [ ! -e "$key" ]; do
        tries=$((tries + 1))
        [ "$tries" -lt 60 ] || {
            echo "entrypoint: no key in $HOME/.ssh after a minute" >&2
            exit 1
        }
        sleep 1
    done
}

case ${1:-} in
sshd)
    make_key
    exec /usr/sbin/sshd -D -e -f "$HOME/.sshd_config"
    ;;
*)
    if [ "${DATHVD_SSHD:-0}" = 1 ]; then
        make_key
        /usr/sbin/sshd -f "$HOME/.sshd_config"
    fi
    exec "$@"
    ;;
esac
