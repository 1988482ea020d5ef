#!/usr/bin/env bash
# Makes a base image from Debian's or Ubuntu's packages, where no registry can be reached:
#
#   docker/bootstrap-base.sh NAME   then   BUILD_IMAGE=NAME RUNTIME_IMAGE=NAME make docker-build
#
#   CONTAINER_ENGINE  podman | buildah | docker   (docker)
#   SUITE             release of Debian or Ubuntu (bookworm; noble for VARIANT=cuda)
#   MIRROR            where packages come from, as in launchers/bootstrap.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
name=${1:?usage: docker/bootstrap-base.sh NAME}
engine=${CONTAINER_ENGINE:-docker}
work=$(mktemp -d "${TMPDIR:-/tmp}/base.XXXXXX")
trap 'rm -rf "$work"' EXIT

"$root/launchers/bootstrap.sh" "${SUITE:-bookworm}" "$work/root" >&2
if [ "$engine" = buildah ]; then
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/root" / >/dev/null
    buildah config --cmd bash "$container"
    buildah commit -q --rm "$container" "$name" >/dev/null
else
    tar -C "$work/root" -c . | "$engine" import - "$name" >/dev/null
fi
echo "$name"
