#!/usr/bin/env bash
# Makes a base image from Debian's packages, where no registry can be reached:
#
#   docker/bootstrap-base.sh NAME   then   BUILD_IMAGE=NAME RUNTIME_IMAGE=NAME make docker-build
#
#   CONTAINER_ENGINE  podman | buildah | docker   (docker)
#   MIRROR            Debian mirror               (http://deb.debian.org/debian)
set -euo pipefail

name=${1:?usage: docker/bootstrap-base.sh NAME}
engine=${CONTAINER_ENGINE:-docker}
work=$(mktemp -d "${TMPDIR:-/tmp}/base.XXXXXX")
trap 'rm -rf "$work"' EXIT

debootstrap --variant=minbase bookworm "$work/root" "${MIRROR:-http://deb.debian.org/debian}" >&2
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
if [ "$engine" = buildah ]; then
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/root" / >/dev/null
    buildah config --cmd bash "$container"
    buildah commit -q --rm "$container" "$name" >/dev/null
else
    tar -C "$work/root" -c . | "$engine" import - "$name" >/dev/null
fi
echo "$name"
