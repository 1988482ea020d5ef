"""The sdist and the wheel: complete, and of use outside of a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.processes import Finished, run

ROOT = Path(__file__).parents[2]
PARTS = (
    "dathvd",
    "configs",
    "setup.cfg",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
CONFIGS = sorted(
    file.relative_to(ROOT).as_posix() for file in (ROOT / "configs").glob("**/*.yaml")
)
TINY = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=32", "data.num_test=8",
    "train.batch_size=16", "train.epochs=1", "model.width=4", "attack.num_steps=1",
    "evaluation.attack.num_steps=1",
]  # fmt: skip


def call(command: Sequence[str | Path], **options: object) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=300,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of a clean copy of the tree, and the wheel made from that sdist."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder,
    ]
    # quickly compiled: what the loops compute is other tests' matter
    call([*command, source], env={**os.environ, "CFLAGS": "-O0", "CXXFLAGS": "-O0"})
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(
    built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A clean environment with the wheel, beside the packages that it asks for.

    These are taken from the environment of the tests, by a path file: nothing is
    downloaded, and the wheel's own folder comes first.
    """
    env = tmp_path_factory.mktemp("env")
    call([sys.executable, "-m", "venv", "--without-pip", env])
    python = env / "bin" / "python"
    install: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
    ]
    call([*install, "--no-index", "--no-deps", built[1]])
    (site,) = env.glob("lib/python3*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return env


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no checkout, with nothing that leads to one."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def start(env: Path, folder: Path, *words: str) -> Finished:
    path = f"{env / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = run([env / "bin" / words[0], *words[1:]], cwd=folder, env={"PATH": path})
    assert done.code == 0, done.output
    return done


def test_the_archives_hold_configurations_sources_and_types(
    built: tuple[Path, Path],
) -> None:
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"dathvd/{name}" for name in CONFIGS}
    assert shipped <= in_wheel and shipped <= inner
    assert "dathvd/py.typed" in in_wheel
    native = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dathvd").glob("*/native/*")
    }
    assert native and native <= inner
    modules = {
        path.relative_to(ROOT).as_posix() for path in ROOT.glob("dathvd/**/*.py")
    }
    assert modules == {name for name in in_wheel if name.endswith(".py")}


def test_the_wheel_is_of_its_platform_and_compiled(built: tuple[Path, Path]) -> None:
    if sysconfig.get_config_var("CXX") is None or shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    names = zipfile.ZipFile(built[1]).namelist()
    compiled = {Path(name).name.partition(".")[0] for name in names if ".so" in name}
    assert compiled == {"_kernels", "_tiles", "_winograd"}
    assert "linux" in built[1].name


def test_it_trains_elsewhere(installed: Path, elsewhere: Path) -> None:
    sets = [word for field in TINY for word in ("--set", field)]
    done = start(installed, elsewhere, "dathvd", "train", *sets)
    assert "robust" in done.stdout
    (result,) = elsewhere.glob("runs/*/result.json")
    where = "import dathvd; print(dathvd.__file__)"
    found = start(installed, elsewhere, "python", "-c", where).stdout.strip()
    assert Path(found).is_relative_to(installed), result


def test_every_configuration_loads_elsewhere(installed: Path, elsewhere: Path) -> None:
    script = (
        "from dathvd.config import load_config, shipped_configs\n"
        "print(*(load_config(n) and n for n in shipped_configs()), sep='\\n')\n"
        "from dathvd.benchmark.accuracy import large_batch, method_table\n"
        "load_config(large_batch.CONFIG), load_config(method_table.CONFIG)"
    )
    done = start(installed, elsewhere, "python", "-c", script)
    names = [name.removeprefix("configs/").removesuffix(".yaml") for name in CONFIGS]
    assert done.stdout.split() == sorted(names)


def test_every_command_explains_itself_elsewhere(
    installed: Path, elsewhere: Path
) -> None:
    script = (
        "from dathvd.cli import COMMANDS, cli\n"
        "for name in COMMANDS: cli.main([name, '--help'], standalone_mode=False)\n"
        "print(sum(name.startswith('benchmark-') for name in COMMANDS))"
    )
    done = start(installed, elsewhere, "python", "-c", script)
    assert done.stdout.count("Usage:") >= 6 and int(done.stdout.split()[-1]) >= 6
