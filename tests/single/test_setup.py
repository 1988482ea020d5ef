"""The set-up script: what it decides, and what it says where it cannot go on."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launchers" / "setup.sh"
LOCKS = ROOT / "launchers" / "locks"
VENV = Path(sys.executable).parents[1]


def call(function: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Call one function of the script, whose last part (the work) is left out."""
    text = SCRIPT.read_text()
    functions = text[: text.index("\npython=$(interpreter)")]
    functions = functions.replace("${BASH_SOURCE[0]}", str(SCRIPT))
    return subprocess.run(
        ["bash", "-c", f"{functions}\npython={sys.executable}\n{function}"],
        env={"PATH": os.environ["PATH"], "HOME": "/root", "VENV": str(VENV), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_pins_come_from_the_constraints() -> None:
    done = call("pinned torch; pinned numpy; pinned cuda-toolkit")
    text = (ROOT / "launchers" / "constraints.txt").read_text()
    pins = re.findall(r"^(?:torch|numpy|cuda-toolkit)==\S+$", text, re.MULTILINE)
    assert sorted(done.stdout.split()) == sorted(pins) and len(pins) == 3


def test_every_package_comes_from_one_index_alone() -> None:
    show = 'pip() { [ "$1" = config ] || echo "$@"; }; install_torch'
    index = "https://wheels.invalid/cpu"
    torch, _, other = call(show, DATHVD_TORCH_INDEX=index).stdout.splitlines()
    assert f"--index-url {index}" in torch and "--no-deps" in torch
    names = [word.partition("==")[0] for word in torch.split() if "==" in word]
    assert names == ["torch", "torchvision"]
    assert "index" not in other
    assert "--extra-index-url" not in SCRIPT.read_text()


def test_torch_of_pypi_is_compared_with_hashes_and_other_builds_with_their_own(
    tmp_path: Path,
) -> None:
    show = 'pip() { [ "$1" = config ] && echo "$CONFIG" || echo "$@"; }; install_torch'
    alone = call(show, CONFIG="global.cert='x'").stdout
    assert "--require-hashes" in alone and "locks/torch.txt" in alone
    beside = call(show, CONFIG=":env:.find-links='/wheels'").stdout
    assert "are not compared with hashes" in beside
    assert "--require-hashes" not in beside
    lock = tmp_path / "cpu.txt"
    lock.write_text("torch==1 --hash=sha256:0\n")
    own = call(show, CONFIG="", DATHVD_TORCH_LOCK=str(lock)).stdout
    assert f"--require-hashes -r {lock}" in own and "not compared" not in own


def test_pips_own_settings_are_read_to_their_end() -> None:
    settings = {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", "PIP_TIMEOUT": "9"}
    ask = "has_other_places && echo beside || echo alone"
    assert call(ask, **settings).stdout == "alone\n"
    settings["PIP_FIND_LINKS"] = "/wheels"
    assert call(ask, **settings).stdout == "beside\n"


def locked(name: str) -> dict[str, str]:
    """The versions of a lock file, all of whose packages have hashes."""
    text = (LOCKS / f"{name}.txt").read_text()
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text)[1:]:
        package, _, rest = entry.partition("==")
        hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", rest)
        assert hashes and rest.count("--hash=") == len(hashes), package
        found[package] = rest.split()[0]
    assert found
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_locks_and_constraints_name_the_same_versions() -> None:
    text = (ROOT / "launchers" / "constraints.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
    pins = {normal(name): Version(version) for name, version in pins.items()}
    everything: dict[str, Version] = {}
    for file in set(LOCKS.glob("*.txt")) - {LOCKS / "tools.txt"}:  # apart from all
        for name, version in locked(file.stem).items():
            assert everything.setdefault(name, Version(version)) == Version(version)
    shared = pins.keys() & everything.keys()
    assert all(pins[name] == everything[name] for name in shared)
    # Horovod is built from a source archive with a hash of its own
    assert pins.keys() - shared <= {"horovod", "opentelemetry-api"}


def test_every_extra_has_a_lock_and_each_requirement_is_in_one() -> None:
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    base = locked("base").keys() | locked("torch").keys()
    needed = {"": settings["options"]["install_requires"]}
    needed |= dict(settings["options.extras_require"])
    del needed["horovod"]
    for extra, lines in needed.items():
        there = base | (locked(extra).keys() if extra else set())
        names = [Requirement(each).name for each in without_comments(lines)]
        assert {normal(name) for name in names} <= there, extra
    builds_horovod = {"cloudpickle", "numpy", "packaging", "psutil", "pyyaml"}
    assert builds_horovod <= locked("base").keys()


def without_comments(lines: str) -> list[str]:
    return [line for line in lines.splitlines() if line and not line.startswith("#")]


@pytest.mark.slow
def test_a_forged_file_is_refused(tmp_path: Path) -> None:
    """pip is the real one; the file's name and version are right, its hash is not."""
    wheel = tmp_path / "forged-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("forged-1.0.dist-info/METADATA", "Name: forged\nVersion: 1.0")
        archive.writestr("forged-1.0.dist-info/WHEEL", "Wheel-Version: 1.0")
        archive.writestr("forged-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    target, lock = tmp_path / "target", tmp_path / "lock.txt"
    env = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_TARGET": str(target),
        "PIP_CONFIG_FILE": os.devnull,
    }
    lock.write_text(f"forged==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    refused = call(f"install_locked {lock}", **env)
    assert refused.returncode == 2 and "DO NOT MATCH THE HASHES" in refused.stderr
    assert "DATHVD_HASHES=0" in refused.stderr and not target.exists()
    by_version = call(f"install_locked {lock}", DATHVD_HASHES="0", **env)
    assert by_version.returncode == 0, by_version.stderr
    lock.write_text(f"forged==1.0 \\\n    --hash=sha256:{digest}\n")
    env["PIP_TARGET"] = str(tmp_path / "right")
    assert call(f"install_locked {lock}", **env).returncode == 0
    assert (tmp_path / "right" / "forged-1.0.dist-info").is_dir()
    nowhere = call("install_locked none-such")
    assert nowhere.returncode == 2 and "make lock writes" in nowhere.stderr


def test_another_list_of_patches_is_another_wheel() -> None:
    ours = call("horovod_key")
    other = call('patch_horovod() { echo "none"; }; horovod_key')
    assert other.returncode == 0 and other.stdout != ours.stdout


def test_the_patches_change_horovods_sources(tmp_path: Path) -> None:
    """Each edit finds its place in files like Horovod's."""
    common = tmp_path / "horovod" / "common"
    for folder in (common / "ops" / "cuda", tmp_path / "horovod" / "torch"):
        folder.mkdir(parents=True)
    (common / "common.h").write_text("#include <memory>\n#include <string>\nint a;\n")
    (common / "group_table.h").write_text("#include <queue>\n#include <vector>\n")
    lists = [
        tmp_path / "CMakeLists.txt",
        tmp_path / "horovod" / "torch" / "CMakeLists.txt",
    ]
    for file in lists:
        file.write_text("set(CMAKE_CXX_STANDARD 14)\n")
    cuda = common / "ops" / "cuda" / "CMakeLists.txt"
    cuda.write_text("set(CMAKE_CUDA_STANDARD 11)\n")
    span = tmp_path / "third_party" / "flatbuffers" / "include" / "flatbuffers"
    span.mkdir(parents=True)
    constants = "  pointer const data_;\n  const size_type count_;\n"
    (span / "stl_emulation.h").write_text(constants)
    assert call(f"patch_horovod {tmp_path}").returncode == 0
    assert "const " not in (span / "stl_emulation.h").read_text()
    header = (common / "common.h").read_text()
    assert header.splitlines()[1:3] == ["#include <stdexcept>", "#include <string>"]
    table = (common / "group_table.h").read_text()
    assert table.splitlines()[1] == "#include <string>"
    assert all("STANDARD 17" in file.read_text() for file in (*lists, cuda))


def toolkit(folder: Path) -> Path:
    """A CUDA toolkit as NVIDIA's wheels lay it into an environment."""
    home = folder / "lib" / "python3.12" / "site-packages" / "nvidia" / "cu13"
    for name in ("bin", "lib"):
        (home / name).mkdir(parents=True)
    (home / "lib" / "libcudart.so.13").write_text("")
    compiler = home / "bin" / "nvcc"
    compiler.write_text("#!/bin/sh\necho release 13.0\n")
    compiler.chmod(0o755)
    return home


def test_a_toolkit_of_wheels_is_found(tmp_path: Path) -> None:
    home = toolkit(tmp_path)
    bare = "/usr/bin:/bin"
    found = call("cuda_home", VENV=str(tmp_path), PATH=bare)
    if found.stdout.strip() != str(home):
        pytest.skip("nvcc is installed here")
    done = call("install_cuda_toolkit", VENV=str(tmp_path), DATHVD_CUDA="1", PATH=bare)
    assert done.returncode == 0, done.stderr
    # what nvcc and the linker ask for
    assert (home / "lib64" / "libcudart.so").resolve().name == "libcudart.so.13"


def test_cuda_home_comes_before_the_path_and_the_wheels(tmp_path: Path) -> None:
    toolkit(tmp_path / "venv")
    own = toolkit(tmp_path / "own")
    path = f"{toolkit(tmp_path / 'path') / 'bin'}:{os.environ['PATH']}"
    venv = str(tmp_path / "venv")
    found = call("cuda_home", VENV=venv, PATH=path, CUDA_HOME=str(own))
    assert found.stdout.strip() == str(own)
    assert call("cuda_home", VENV=venv, PATH=path).stdout.strip() == str(
        tmp_path / "path/lib/python3.12/site-packages/nvidia/cu13"
    )


def test_cuda_is_built_only_where_asked_for_or_found(tmp_path: Path) -> None:
    venv = str(tmp_path)
    toolkit(tmp_path)
    words = "build_cuda && echo yes || echo no"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nexit 0\n")
    smi.chmod(0o755)
    with_gpu = f"{tmp_path}:/usr/bin:/bin"
    assert call(words, VENV=venv, PATH="/usr/bin:/bin").stdout == "no\n"
    assert call(words, VENV=venv, PATH=with_gpu).stdout == "yes\n"
    assert call(words, VENV=venv, PATH=with_gpu, DATHVD_CUDA="0").stdout == "no\n"
    assert call(words, VENV=venv, DATHVD_CUDA="1").stdout == "yes\n"


def test_the_key_is_stable_and_knows_what_horovod_is_built_against(
    tmp_path: Path,
) -> None:
    first, second = call("horovod_key"), call("horovod_key")
    assert re.fullmatch(r"[0-9a-f]{16}\n", first.stdout), first.stderr
    assert first.stdout == second.stdout
    compiler = tmp_path / "g++"  # another compiler, another wheel
    compiler.write_text("#!/bin/sh\necho 99.1.0\n")
    compiler.chmod(0o755)
    other = call("horovod_key", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert other.returncode == 0 and other.stdout != first.stdout


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # its version check fails
    old.chmod(0o755)
    done = call("interpreter", PYTHON=str(old))
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr


def test_a_missing_package_is_named_to_who_cannot_install_it(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("id", "sudo"):
        fake = bin_folder / name
        fake.write_text("#!/bin/sh\n[ $(basename $0) = id ] && echo 1000 || exit 1\n")
        fake.chmod(0o755)
    for name in ("sort", "tr", "printf", "grep", "basename", "dirname", "sh"):
        (bin_folder / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        ["/usr/bin/bash", str(SCRIPT)],
        env={"PATH": str(bin_folder), "HOME": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("setup: missing system packages: ")
    assert "openmpi-bin" in done.stderr and "cmake" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = subprocess.run(
        [str(SCRIPT)],
        env={**os.environ, "DATHVD_CACHE": str(blocked), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    if "missing system packages" in done.stderr:
        pytest.skip("the packages to build with are not installed here")
    assert done.returncode == 2
    assert "another with DATHVD_CACHE=" in done.stderr


@pytest.mark.needs("make")
def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    done = subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory"],
        capture_output=True,
        text=True,
        check=True,
    )
    for target in phony[1].split():
        assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE), target


def test_the_readmes_targets_exist() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README here")
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", readme.read_text())):
        assert f"\n{target}:" in makefile, target


def test_horovod_leaves_out_cuda_that_only_torch_has(tmp_path: Path) -> None:
    """PyPI's torch is built for CUDA, and an nvcc may be found without headers."""
    file = tmp_path / "cmake" / "Modules" / "FindPytorch.cmake"
    file.parent.mkdir(parents=True)
    line = 'string(TOUPPER "${Pytorch_CUDA}" Pytorch_CUDA)\n'
    file.write_text(f"first()\n{line}last()\n")
    assert call(f"leave_out_cuda {tmp_path}").returncode == 0
    assert file.read_text() == f"first()\n{line}set(Pytorch_CUDA FALSE)\nlast()\n"
    # another Horovod would be built for what is not there, in five minutes, and fail
    file.write_text("first()\n")
    done = call(f"leave_out_cuda {tmp_path}")
    assert done.returncode != 0 and "torch has CUDA" in done.stderr
