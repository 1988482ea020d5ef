"""Secrets in the environment stay there: real jobs run, and all that shows is searched.

What a rank gets is held against the exact list (``dathvd.launch.environment``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from dathvd.launch.environment import FORWARDED, LAUNCHER_ONLY, MPI_SETTING
from dathvd.ranks import HOT_EVERY
from dathvd.service import record
from dathvd.service.engines import build_engine
from dathvd.service.engines.kubernetes import manifest
from tests.processes import DATHVD, environment, run

NAMES = """
    SLURM_JWT DATHVD_PW DATHVD_TOKEN DATHVD_DATABASE DATABASE_URL TORCH_HUB_CREDS
    AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN KUBECONFIG KUBE_TOKEN
    WANDB_API_KEY HF_TOKEN GITHUB_TOKEN PGPASSWORD HTTPS_PROXY HOROVOD_SECRET
    OMP_PASSWORD NCCL_KEY PYTHON_KEYRING_PASSWORD
    """.split()
QUICK = [
    "train", "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=32", "--set", "data.num_test=8",
    "--set", "train.batch_size=16", "--set", "model.width=4",
    "--set", "train.epochs=1", "--set", "attack.num_steps=1",
    "--set", "evaluation.attack.num_steps=1",
    "--set", "evaluation.pictures=false",
]  # fmt: skip
GIVEN = re.compile(
    r"(OMPI|PMIX|PRTE|ORTE|OPAL|HOROVOD|IPATH|HFI|HWLOC)_\w+|"
    r"DATHVD_HEARTBEAT\w*|PWD|OLDPWD|SHLVL|_"
)
"""Names of what launchers and companions set for each rank, with values of theirs."""


@dataclass
class Secrets:
    """A value that occurs nowhere else, under names of secrets, in an environment."""

    value: str = field(default_factory=lambda: f"hush-{secrets.token_hex(12)}")

    def environment(self) -> dict[str, str]:
        url = f"postgresql://me:{self.value}@127.0.0.1:1/x"
        values = {name: url if "DATA" in name else self.value for name in NAMES}
        return environment({**values, "HARMLESS_BUT_NOT_LISTED": self.value})


@dataclass
class Seen:
    """What could be seen of a job's processes while they ran."""

    run_dir: Path
    words: set[str] = field(default_factory=set)
    ranks: dict[int, dict[str, str]] = field(default_factory=dict)
    """The environment of each rank's process."""

    def look(self, value: str) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if value in " ".join(words):
                    self.words.add(" ".join(words))
                trains = words[1:5] == ["-P", "-m", "dathvd", "train"]
                if trains and str(self.run_dir) in words:
                    self.ranks[process.pid] = process.environ()


@contextlib.contextmanager
def watched(value: str, run_dir: Path) -> Iterator[Seen]:
    """Look at all processes of this machine again and again."""
    seen, ended = Seen(run_dir), threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            seen.look(value)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def launched_over_gloo(run_dir: Path, env: dict[str, str]) -> str:
    words: list[str | Path] = [
        DATHVD,
        "launch",
        "-np",
        "2",
        "--gloo",
        "--max-restarts",
        "1",
        "--",
    ]
    done = run([*words, *QUICK, "--run-dir", run_dir], env=env)
    assert done.code == 0, done.output
    return done.output


def submitted_here(run_dir: Path, env: dict[str, str]) -> str:
    """To this machine's queue, which launches over MPI."""
    words: list[str | Path] = [
        DATHVD,
        "submit",
        "-np",
        "2",
        "--run-dir",
        run_dir,
        "--",
        *QUICK,
    ]
    env = {**env, "DATHVD_STATE": str(run_dir.parent / "queue"), "DATHVD_SLOTS": "2"}
    env["XDG_DATA_HOME"] = str(run_dir.parent / "data")
    # the index of runs is a file here: it would be looked for in PostgreSQL
    env["DATHVD_DATABASE"] = f"sqlite:///{run_dir.parent}/index.db"
    done = run(words, env=env)
    assert done.code == 0, done.output
    deadline = time.monotonic() + 120
    while record.read_exit(run_dir, 1) is None:
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.1)
    end = record.read_exit(run_dir, 1)
    assert end is not None and end.code == 0, end
    return done.output


@pytest.mark.needs("mpirun", "ssh")
@pytest.mark.parametrize("start", [launched_over_gloo, submitted_here])
def test_a_job_shows_no_secret(
    start: Callable[[Path, dict[str, str]], str], tmp_path: Path
) -> None:
    """Neither on a command line, in what it says and writes, nor in a rank."""
    hidden, run_dir = Secrets(), tmp_path / "run"
    with watched(hidden.value, run_dir) as seen:
        said = start(run_dir, hidden.environment())
    assert not seen.words
    assert hidden.value not in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if hidden.value.encode() in file.read_bytes()]
    assert len(seen.ranks) >= 2
    for environ in seen.ranks.values():
        assert hidden.value not in " ".join(environ.values())
        listed = FORWARDED | LAUNCHER_ONLY | {HOT_EVERY}
        extra = {name for name in environ if name not in listed}
        assert not {name for name in extra if not GIVEN.fullmatch(name)}


@pytest.mark.parametrize("controller", ["--mpi", "--gloo"])
def test_a_dry_run_names_variables_and_no_values(controller: str) -> None:
    hidden = Secrets()
    words = [DATHVD, "launch", "-np", "2", controller, "--dry-run", "--env", "MINE"]
    env = {**hidden.environment(), "MINE": hidden.value}
    done = run([*words, "--", *QUICK], env=env)
    assert done.code == 0 and "train" in done.stdout, done.output
    assert hidden.value not in done.output
    assert not MPI_SETTING.search("SLURM_JWT")


def test_engines_are_given_names_and_no_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's script and arguments, LSF's, and Kubernetes' manifest."""
    hidden, calls = Secrets(), tmp_path / "calls"
    for name, answer in (("sbatch", "7"), ("bsub", "Job <7> is submitted")):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{calls}; cat >>{calls}; echo "{answer}"\n'
        )
        program.chmod(0o755)
    for name, value in hidden.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("MINE", hidden.value)
    for engine in ("slurm", "lsf"):
        job = record.new_job(
            engine=engine,
            num_proc=2,
            arguments=QUICK,
            folder=str(tmp_path),
            options={"export": "MINE"},
        )
        assert build_engine(engine).submit(tmp_path / "run", job) == "7"
    text = calls.read_text() + json.dumps(manifest(tmp_path / "run", job))
    assert "srun" in text and "MPIJob" in text and hidden.value not in text
    handed_on = re.findall(r"--export=(\S+)|-env (\S+)", text)
    assert len(handed_on) == 2
    for names in map("".join, handed_on):
        other = {*names.split(",")} - FORWARDED
        assert {name for name in other if not MPI_SETTING.fullmatch(name)} == {"MINE"}
    assert "--env=MINE" in text  # of `dathvd launch` in LSF's script
    assert "unset SLURM_JWT" in text
