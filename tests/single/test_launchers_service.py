"""The service's files: valid for Kubernetes and Compose, and in line with the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dathvd.commands.serve import command as serve_command

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "launchers" / "kubernetes"
VERSIONS = ("1.29", "1.37")
"""Releases of Kubernetes whose schemas the files fit."""
SERVICE = list(yaml.safe_load_all((KUBERNETES / "service.yaml").read_text()))
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()


def objects() -> Iterator[dict[str, Any]]:
    """All objects of Kubernetes' own kinds; an MPIJob's pods as templates of pods."""
    for file in sorted(KUBERNETES.glob("*.yaml")):
        for each in yaml.safe_load_all(file.read_text()):
            if each["kind"] != "MPIJob":
                yield each
                continue
            for role in each["spec"]["mpiReplicaSpecs"].values():
                yield template_of(role["template"])


def template_of(template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "x"},
        "template": template,
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_kubernetes_schema(version: str) -> None:
    found = list(objects())
    assert len(found) > 12
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)
    wrong = template_of(
        {"spec": {"containers": [{"name": "x", "imagePull": "Always"}]}}
    )
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def one(kind: str, name: str = "dathvd") -> dict[str, Any]:
    (found,) = (
        each
        for each in SERVICE
        if each["kind"] == kind and each["metadata"]["name"] == name
    )
    return dict(found)


def pod_of(kind: str, name: str) -> dict[str, Any]:
    return dict(one(kind, name)["spec"]["template"]["spec"])


def test_selectors_find_the_pods_and_volumes_are_there() -> None:
    for kind, name in (("Deployment", "dathvd"), ("StatefulSet", "dathvd-database")):
        spec = one(kind, name)["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        assert one("Service", name)["spec"]["selector"] == labels
        pod = spec["template"]["spec"]
        volumes = {each["name"] for each in pod.get("volumes", [])}
        claims = spec.get("volumeClaimTemplates", [])
        volumes |= {each["metadata"]["name"] for each in claims}
        containers = [*pod.get("initContainers", []), *pod["containers"]]
        mounted = {m["name"] for c in containers for m in c["volumeMounts"]}
        assert mounted == volumes
    policy = one("NetworkPolicy", "dathvd-database")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels


def test_the_pods_fit_the_restricted_profile() -> None:
    for kind, name in (("Deployment", "dathvd"), ("StatefulSet", "dathvd-database")):
        pod = pod_of(kind, name)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    user = re.search(r"^ARG UID=(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    pod = pod_of("Deployment", "dathvd")
    assert pod["securityContext"]["runAsUser"] == int(user[1])


def test_the_server_may_do_what_its_engine_asks_and_nothing_else() -> None:
    (rule,) = one("Role")["rules"]
    assert rule["apiGroups"] == ["kubeflow.org"] and rule["resources"] == ["mpijobs"]
    engine = (ROOT / "dathvd" / "service" / "engines" / "kubernetes.py").read_text()
    asked = set(re.findall(r'"(create|get|patch|delete|apply)", ?"', engine))
    asked |= set(re.findall(r'\["(patch|delete)"', engine))
    # to list is to get without a name
    assert set(rule["verbs"]) - {"list"} == asked == {"create", "get", "patch"}


def serve_words() -> Iterator[list[str]]:
    (server,) = pod_of("Deployment", "dathvd")["containers"]
    yield [str(word) for word in server["args"]]
    yield COMPOSE["services"]["server"]["command"].split()


@pytest.mark.parametrize("words", list(serve_words()))
def test_servers_are_started_with_options_that_there_are(words: list[str]) -> None:
    assert words[:2] == ["dathvd", "serve"]
    given = serve_command.make_context("serve", words[2:]).params
    # others than this container reach it: a token and TLS before it
    assert given["host"] == "0.0.0.0" and given["behind_proxy"]
    assert "runs" in given["root"]


def test_probes_ask_for_health_by_a_name_that_the_server_knows() -> None:
    (server,) = pod_of("Deployment", "dathvd")["containers"]
    for probe in ("readinessProbe", "livenessProbe"):
        asked = server[probe]["httpGet"]
        assert asked["path"] == "/healthz"
        assert asked["httpHeaders"] == [{"name": "Host", "value": "localhost"}]
        ports = {port["name"]: port["containerPort"] for port in server["ports"]}
        assert ports[asked["port"]] == 8421


def test_compose_has_the_server_and_its_database_beside_the_workers() -> None:
    services = COMPOSE["services"]
    server, database = services["server"], services["database"]
    assert {
        name for name, s in services.items() if s.get("profiles") == ["service"]
    } == {
        "server",
        "database",
    }
    for each in (server, database):
        assert each["healthcheck"]["test"][0] == "CMD"
        assert each["restart"] == "unless-stopped"
    assert server["depends_on"] == {"database": {"condition": "service_healthy"}}
    # reached from this machine alone, and the database by the server alone
    assert server["ports"] == ["127.0.0.1:8421:8421"] and "ports" not in database
    assert COMPOSE["networks"]["index"]["internal"] is True
    assert database["networks"] == ["index"]
    # the workers' runs are the server's
    mounts = [set(services[name]["volumes"]) for name in ("node1", "node2", "server")]
    assert "runs:/home/dathvd/runs" in set.intersection(*mounts)
    used = {v.split(":")[0] for s in services.values() for v in s["volumes"]}
    assert used == set(COMPOSE["volumes"])
    # the token's folder belongs to the image's user, and so will the volume
    assert ".config/dathvd" in DOCKERFILE
    assert "config:/home/dathvd/.config/dathvd" in server["volumes"]
    password = "${DATHVD_DATABASE_PASSWORD:-dathvd}"
    assert database["environment"]["POSTGRES_PASSWORD"] == password
    assert f":{password}@database/" in server["environment"]["DATHVD_DATABASE"]


def test_the_images_hold_what_the_server_needs() -> None:
    """The packages of the extra, and kubectl in the one that submits to a cluster."""
    assert "DATHVD_EXTRAS=service " in DOCKERFILE
    stage = DOCKERFILE.partition(" AS base-cluster\n")[2].partition("\nFROM ")[0]
    assert "kubernetes-client" in stage and stage.rstrip().endswith("USER ${UID}")
    assert "\nFROM base-cluster AS cluster\n" in DOCKERFILE
    # the last stage is what a build without a target makes
    assert DOCKERFILE.rpartition("\nFROM ")[2].startswith("base AS runtime\n")
    images = {
        each["image"]
        for key in ("initContainers", "containers")
        for each in pod_of("Deployment", "dathvd")[key]
    }
    assert images == {"dathvd:cluster"}
