"""Kubernetes: an attempt is an MPIJob of the MPI operator (kubeflow.org/v2beta1).

A volume that the workers share (a claim of mode ReadWriteMany) holds the run folders,
mounted at the same path as on the machine that submits. Tested against a stand-in for
kubectl and against the operator's schema: no cluster was at hand.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from dathvd.errors import UserError
from dathvd.service.attempt import output_file, rank_arguments
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.engines.programs import ask
from dathvd.service.record import Job

_LABEL = "app.kubernetes.io/managed-by=dathvd"
_USER = 10001


class Kubernetes:
    """The cluster and namespace that ``kubectl`` of this machine speaks to."""

    name: ClassVar[str] = "kubernetes"
    option_names: ClassVar[dict[str, str]] = {
        "claim": "The persistent volume claim that holds the runs, dathvd-runs.",
        "cpu": "Cores of each worker, 2.",
        "gpus": "GPUs of each worker, none.",
        "image": "The image, dathvd:cpu.",
        "max_restarts": "Start failed ranks again, up to this many times, 3.",
        "memory": "Memory of each worker, 4Gi.",
        "mount": "Where the volume is mounted, here and there. "
        "[default: the folder above the run]",
        "namespace": "The namespace, kubectl's own.",
    }

    def submit(self, run: Path, job: Job) -> str:
        text = json.dumps(manifest(run, job))
        try:
            ask([*_kubectl(job), "create", "-f", "-"], text)
        except Unreachable as error:
            if "AlreadyExists" in str(error):
                return job.name
            refusals = ("Invalid", "Forbidden", "no matches for kind", "unknown field")
            if any(word in str(error) for word in refusals):
                raise UserError(str(error)) from None
            raise
        return job.name

    resume = submit

    def find(self, run: Path, job: Job) -> str | None:
        try:
            ask([*_kubectl(job), "get", "mpijob", job.name, "-o", "name"])
        except Unreachable as error:
            if "NotFound" in str(error):
                return None
            raise
        return job.name

    def view_all(self, jobs: Sequence[Submitted]) -> dict[str, View | Unreachable]:
        views: dict[str, View | Unreachable] = {}
        for namespace in {each.job.options.get("namespace") for each in jobs}:
            own = [e.job for e in jobs if e.job.options.get("namespace") == namespace]
            words = [*_kubectl(own[0]), "get", "mpijobs", "-l", _LABEL, "-o", "json"]
            objects = json.loads(ask(words)).get("items", [])
            by_name = {each["metadata"]["name"]: each for each in objects}
            for job in own:
                if job.name in by_name:
                    views[job.uuid] = _view(by_name[job.name])
        return views

    def stop(self, submitted: Submitted, *, now: bool) -> None:
        """The watcher in the launcher's pod saves on the request; a job that waits for
        its pods, and one that is to end now, is suspended, which removes them."""
        job = submitted.job
        waits = True
        view = self.view_all([submitted]).get(job.uuid)
        if isinstance(view, View):
            waits = view.state == "queued"
        if now or waits:
            patch = json.dumps({"spec": {"runPolicy": {"suspend": True}}})
            words = ["patch", "mpijob", job.name, "--type=merge", "-p", patch]
            ask([*_kubectl(job), *words])


def _kubectl(job: Job) -> list[str]:
    namespace = job.options.get("namespace")
    return ["kubectl", *(["-n", namespace] if namespace else [])]


def manifest(run: Path, job: Job) -> dict[str, Any]:
    """The MPIJob of an attempt: a launcher with the watcher, and workers with sshd."""
    options = job.options
    mount = options.get("mount", str(run.parent))
    if not run.is_relative_to(mount):
        raise UserError(f"--option mount={mount}: the run folder {run} is not below it")
    limits = {
        "cpu": options.get("cpu", "2"),
        "memory": options.get("memory", "4Gi"),
    }
    if "gpus" in options:
        limits["nvidia.com/gpu"] = options["gpus"]
    launcher = {
        "name": "launcher",
        "args": launcher_command(run, job),
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
    }
    worker = {
        "name": "worker",
        "args": ["sshd"],
        "ports": [{"name": "ssh", "containerPort": 2222}],
        "readinessProbe": {"tcpSocket": {"port": "ssh"}, "periodSeconds": 2},
        "resources": {"limits": limits},
    }
    return {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": {
            "name": job.name,
            "labels": {_LABEL.partition("=")[0]: "dathvd", "dathvd/uuid": job.uuid},
        },
        "spec": {
            "slotsPerWorker": 1,
            "launcherCreationPolicy": "WaitForWorkersReady",
            "sshAuthMountPath": "/home/dathvd/.ssh",
            "mpiImplementation": "OpenMPI",
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 20},
            "mpiReplicaSpecs": {
                "Launcher": _replicas(1, "OnFailure", launcher, job, mount),
                "Worker": _replicas(job.num_proc, "OnFailure", worker, job, mount),
            },
        },
    }


def launcher_command(run: Path, job: Job) -> list[str]:
    """What the launcher's pod runs: the watcher around ``dathvd launch``.

    The watcher takes the shell's place, as a pod's end is told to its first process
    alone. It ends with 0 when the attempt has ended for good, however it ended, and the
    record says how; any other exit code has the pod made again, as after an eviction.
    """
    log = shlex.quote(str(output_file(run, job.attempt)))
    restarts = shlex.quote(job.options.get("max_restarts", "3"))
    script = (
        'hosts=$(sed "s/ slots=/:/" /etc/mpi/hostfile | paste -sd ,); '
        f"exec > >(tee -a {log}) 2>&1; "
        f'exec python3 -P -m dathvd.service.attempt "$0" {job.attempt} --restarted -- '
        f"python3 -P -m dathvd launch --max-restarts {restarts} "
        f'-np {job.num_proc} -H "$hosts" -- "$@"'
    )
    return ["bash", "-c", script, str(run), *rank_arguments(run, job)]


def _replicas(
    count: int, policy: str, container: dict[str, Any], job: Job, mount: str
) -> dict[str, Any]:
    """Pods of one role; both see the runs, and neither is root."""
    claim = job.options.get("claim", "dathvd-runs")
    return {
        "replicas": count,
        "restartPolicy": policy,
        "template": {
            "spec": {
                "terminationGracePeriodSeconds": 90,
                "automountServiceAccountToken": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _USER,
                    "fsGroup": _USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        **container,
                        "image": job.options.get("image", "dathvd:cpu"),
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                        "volumeMounts": [
                            {"name": "runs", "mountPath": mount},
                            {"name": "shm", "mountPath": "/dev/shm"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "runs", "persistentVolumeClaim": {"claimName": claim}},
                    {"name": "shm", "emptyDir": {"medium": "Memory"}},
                ],
            }
        },
    }


def _view(seen: dict[str, Any]) -> View:
    conditions = {
        each["type"]: each
        for each in seen.get("status", {}).get("conditions", [])
        if each.get("status") == "True"
    }
    for name in ("Failed", "Succeeded"):
        if name in conditions:
            reason = conditions[name].get("message") or conditions[name].get("reason")
            return View("ended", f"Kubernetes: {reason or name}")
    if "Suspended" in conditions or seen["spec"].get("runPolicy", {}).get("suspend"):
        return View("ended", "Kubernetes: suspended")
    if "Running" in conditions:
        return View("running")
    return View("queued", "its pods are not ready")
