"""Launcher files: valid for their systems, and in agreement with the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dathvd.commands.launch import command as launch_command
from dathvd.commands.train import command as train_command

ROOT = Path(__file__).parents[2]
LAUNCHERS = ROOT / "launchers"
KUBERNETES = LAUNCHERS / "kubernetes"
SCRIPTS = sorted(
    [
        *LAUNCHERS.rglob("*.sh"),
        *LAUNCHERS.rglob("*.sbatch"),
        *LAUNCHERS.rglob("*.bsub"),
        *(ROOT / "docker").glob("*.sh"),
        ROOT / ".ci" / "run",
    ]
)
LAUNCHER_USER = "/home/dathvd"


def documents(file: Path) -> list[dict[str, Any]]:
    return [dict(each) for each in yaml.safe_load_all(file.read_text())]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_are_executable(script: Path) -> None:
    shell = "sh" if script.read_text().startswith("#!/bin/sh") else "bash"
    subprocess.run([shell, "-n", str(script)], check=True)
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.mark.needs("shellcheck")
def test_scripts_pass_shellcheck() -> None:
    done = subprocess.run(
        ["shellcheck", *map(str, SCRIPTS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def check(value: Any, model: Any, where: str) -> Iterator[str]:
    """Differences between a document and the small model of its schema."""
    if isinstance(model, dict):
        if not isinstance(value, dict):
            yield f"{where}: expected a mapping"
            return
        for key, inner in value.items():
            if key in model:
                yield from check(inner, model[key], f"{where}.{key}")
            else:
                yield f"{where}: unknown key {key}"
    elif isinstance(model, list):
        if value not in model:
            yield f"{where}: {value!r} is none of {model}"
    elif model == "pod":
        containers = value["spec"]["containers"]
        if not all({"name", "image"} <= set(each) for each in containers):
            yield f"{where}: a container without name or image"
    elif model != "any" and type(value).__name__ != model:
        yield f"{where}: expected {model}, got {value!r}"


@pytest.fixture
def schema() -> dict[str, Any]:
    file = Path(__file__).parent / "data" / "mpijob_v2beta1.yaml"
    return documents(file)[0]


def test_the_mpijob_fits_the_operators_schema(schema: dict[str, Any]) -> None:
    job = documents(KUBERNETES / "mpijob.yaml")[0]
    assert list(check(job, schema, "mpijob")) == []


def test_the_schema_refuses_what_the_operator_would(schema: dict[str, Any]) -> None:
    job = documents(KUBERNETES / "mpijob.yaml")[0]
    job["spec"]["slotsPerWorker"] = "1"
    job["spec"]["launcherCreationPolicy"] = "Later"
    job["spec"]["cleanPodPolicy"] = "All"
    assert len(list(check(job, schema, "mpijob"))) == 3


def test_the_mpijob_waits_for_sshd_and_has_a_slot_a_rank() -> None:
    spec = documents(KUBERNETES / "mpijob.yaml")[0]["spec"]
    assert spec["launcherCreationPolicy"] == "WaitForWorkersReady"
    worker = spec["mpiReplicaSpecs"]["Worker"]
    container = worker["template"]["spec"]["containers"][0]
    port = container["ports"][0]
    assert container["readinessProbe"]["tcpSocket"]["port"] == port["name"]
    sshd = (ROOT / "docker" / "sshd_config").read_text()
    assert f"Port {port['containerPort']}\n" in sshd
    assert f"AuthorizedKeysFile {spec['sshAuthMountPath']}/authorized_keys" in sshd
    launcher = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]
    # the operator's file of hosts decides how many ranks there are
    args = launcher["args"]
    assert args[args.index("--hostfile") + 1] == "/etc/mpi/hostfile"
    assert "-np" not in args and worker["replicas"] * spec["slotsPerWorker"] == 2


def test_an_evicted_worker_does_not_end_the_job() -> None:
    """A deleted pod is made anew, a killed sshd starts again, and the ranks as well."""
    spec = documents(KUBERNETES / "mpijob.yaml")[0]["spec"]
    replicas = spec["mpiReplicaSpecs"]
    assert {r["restartPolicy"] for r in replicas.values()} == {"OnFailure"}
    launcher = replicas["Launcher"]["template"]["spec"]["containers"][0]
    assert "--max-restarts" in launcher["args"]
    grace = [pod["terminationGracePeriodSeconds"] for pod in pods()]
    default = {p.name: p.default for p in launch_command.params}["grace"]
    assert min(grace) > float(str(default))  # the ranks' time to save fits in


def test_pods_fit_the_restricted_profile() -> None:
    """As https://kubernetes.io/docs/concepts/security/pod-security-standards asks."""
    for pod in pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
        kinds = {"persistentVolumeClaim", "emptyDir"}
        for volume in pod["volumes"]:
            assert kinds & volume.keys()


def pods() -> Iterator[dict[str, Any]]:
    mpijob = documents(KUBERNETES / "mpijob.yaml")[0]["spec"]["mpiReplicaSpecs"]
    yield from (replica["template"]["spec"] for replica in mpijob.values())
    yield documents(KUBERNETES / "job.yaml")[0]["spec"]["template"]["spec"]


def test_pods_run_as_the_images_user_and_mount_what_they_name() -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    user = re.search(r"^ARG UID=(\d+)$", dockerfile, re.MULTILINE)
    assert user is not None
    for pod in pods():
        assert pod["securityContext"]["runAsUser"] == int(user[1])
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts == volumes
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of dathvd in the launchers, the compose file and the image."""
    for name in ("mpijob.yaml", "job.yaml"):
        for pod in pods():
            for container in pod["containers"]:
                yield name, [str(word) for word in container["args"]]
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    for name, service in services["services"].items():
        if "profiles" not in service:  # those of the service are tested beside it
            yield name, service["command"].split()


@pytest.mark.parametrize(("name", "words"), list(commands()))
def test_command_lines_agree_with_the_options(name: str, words: list[str]) -> None:
    if words == ["sshd"]:
        assert "\nsshd)\n" in (ROOT / "docker" / "entrypoint.sh").read_text()
        return
    words = words[words.index("dathvd") + 1 :]
    if words[0] == "launch":
        context = launch_command.make_context("launch", words[1:])
        words = list(context.params["arguments"])
    assert words[0] == "train"
    parsed = train_command.make_context("train", words[1:])
    assert parsed.params["run_dir"].startswith("runs/")  # the volume


def test_wrong_command_lines_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        train_command.make_context("train", ["--run-dri", "runs/x"])


def test_compose_trains_across_two_containers() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    services = {k: v for k, v in compose["services"].items() if "profiles" not in v}
    assert len(services) == 2
    for name, service in services.items():
        assert service["hostname"] == name
        assert {v.split(":")[0] for v in service["volumes"]} == {"ssh", "runs"}
    hosts = services["node1"]["command"].split()[3].split(",")
    assert [host.split(":")[0] for host in hosts] == list(services)


def test_retries_tell_a_users_error_from_a_saved_stop() -> None:
    rules = documents(KUBERNETES / "job.yaml")[0]["spec"]["podFailurePolicy"]["rules"]
    actions = {rule["onExitCodes"]["values"][0]: rule["action"] for rule in rules}
    assert actions == {75: "Ignore", 2: "FailJob"}


def test_the_lsf_script_makes_hosts_of_lsf_s_list(tmp_path: Path) -> None:
    fake = tmp_path / "bin" / "dathvd"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\necho "$@"\nexit 75\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [str(LAUNCHERS / "lsf" / "train.bsub")],
        env={
            "PATH": "/usr/bin:/bin",
            "VENV": str(tmp_path),
            "LS_SUBCWD": str(tmp_path),
            "LSB_JOBID": "7",
            "LSB_MCPU_HOSTS": "a 4 b 2",
            "ARGS": "--set seed=1",
            "EXPORT": "MINE,YOURS",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr  # what -Q 75 requeues
    assert done.stdout.split() == (
        "launch -H a:4,b:2 --max-restarts 2 --env=MINE --env=YOURS -- "
        "train --run-dir runs/lsf-7 --set seed=1".split()
    )


def test_the_names_for_an_engine_are_the_exact_list_and_what_is_asked_for() -> None:
    command = [sys.executable, "-P", "-m", "dathvd.launch.exported"]
    env = {"HOME": "/h", "MY_TOKEN": "hush", "MINE": "x", "OMPI_MCA_btl": "self"}
    env |= {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}  # else Python sets one
    for asked, printed in (
        (["MINE"], "HOME,LC_ALL,MINE,OMPI_MCA_btl,PYTHONPATH\n"),
        ([], "HOME,LC_ALL,OMPI_MCA_btl,PYTHONPATH\n"),
    ):
        done = subprocess.run(
            [*command, *asked], env=env, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
    done = subprocess.run([*command, "OTHER"], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "dathvd: error: OTHER: this variable is not set\n"
