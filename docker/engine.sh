#!/usr/bin/env bash
# Builds, trains in and tests the image with the engine that is there.
#
#   docker/engine.sh build [runtime | test | cluster]
#   docker/engine.sh train [ARGUMENTS of dathvd train] | run COMMAND... | test [ARGUMENTS of pytest]
#
#   CONTAINER_ENGINE       docker | podman | buildah                       (docker)
#   IMAGE                  name of the image                               (dathvd)
#   VARIANT                cpu | cuda: with the arguments of docker/cuda.args (cpu)
#   BUILD_IMAGE, RUNTIME_IMAGE   other base images than the pinned ones
#   CONTAINER_BUILD_FLAGS  further flags for the build, such as --isolation=chroot
#   CONTAINER_RUN_FLAGS    further flags for running, such as --gpus=all
#   RUNS                   folder for the runs                             (./runs)
#   NP                     number of workers                               (2)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=${CONTAINER_ENGINE:-docker}
variant=${VARIANT:-cpu}
image=${IMAGE:-dathvd}
case $image in *:*) ;; *) image=$image:$variant ;; esac
runs=${RUNS:-$root/runs}
read -ra build_flags <<<"${CONTAINER_BUILD_FLAGS:-}"
read -ra run_flags <<<"${CONTAINER_RUN_FLAGS:-}"

fail() { printf 'engine: %s\n' "$*" >&2; exit 2; }

command -v "$engine" >/dev/null ||
    fail "$engine is not installed; choose with CONTAINER_ENGINE=docker|podman|buildah"

build() { # build TARGET NAME
    local arguments=() line
    if [ "$variant" = cuda ]; then
        while read -r line; do
            case $line in '' | '#'*) ;; *) arguments+=(--build-arg "$line") ;; esac
        done <"$root/docker/cuda.args"
    elif [ "$variant" != cpu ]; then
        fail "VARIANT=$variant: expected cpu or cuda"
    fi
    for line in BUILD_IMAGE RUNTIME_IMAGE DATHVD_TORCH_INDEX; do
        [ -z "${!line:-}" ] || arguments+=(--build-arg "$line=${!line}")
    done
    # podman and buildah leave the health check out of their own format
    [ "$engine" = docker ] || arguments+=(--format docker)
    # docker and podman keep the layers of earlier builds by themselves
    [ "$engine" != buildah ] || arguments+=(--layers)
    "$engine" build --target "$1" -t "$2" -f "$root/docker/Dockerfile" \
        "${arguments[@]}" "${build_flags[@]}" "$root"
}

ensure() { # ensure TARGET NAME: build unless it is there; "build" makes a newer one
    "$engine" inspect --type image "$2" >/dev/null 2>&1 || build "$1" "$2"
}

run() { # run NAME COMMAND...
    local name=$1 user=() container status=0
    shift
    mkdir -p "$runs"
    # runs belong to whoever called; for root, to the image's own user
    if [ "$(id -u)" = 0 ]; then
        chown 10001 "$runs"
    else
        user=(--user "$(id -u):$(id -g)" --env HOME=/tmp)
    fi
    if [ "$engine" = buildah ]; then # it builds only: a working container serves
        container=$(buildah from "$name")
        # a name that resolves: without one Gloo crashes
        buildah run --hostname localhost "${run_flags[@]}" --volume "$runs:/home/dathvd/runs" \
            "$container" -- "$@" || status=$?
        buildah rm "$container" >/dev/null
        return "$status"
    fi
    "$engine" run --rm --shm-size=1g "${user[@]}" "${run_flags[@]}" \
        --volume "$runs:/home/dathvd/runs" "$name" "$@"
}

case ${1:-} in
build)
    case ${2:-all} in
    all)
        build runtime "$image"
        build test "$image-test"
        ;;
    runtime) build runtime "$image" ;;
    test) build test "$image-test" ;;
    cluster) build cluster "${image%:*}:cluster" ;;
    *) fail "build $2: expected runtime, test or cluster" ;;
    esac
    ;;
train)
    ensure runtime "$image"
    run "$image" dathvd launch -np "${NP:-2}" -- train "${@:2}"
    ;;
run)
    ensure runtime "$image"
    run "$image" "${@:2}"
    ;;
test)
    ensure test "$image-test"
    # two files of tests at a time, as in the Makefile
    run "$image-test" python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "${@:2}"
    ;;
*) fail "expected build, train, run or test" ;;
esac
