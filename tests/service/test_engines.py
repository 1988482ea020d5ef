"""Slurm for real; LSF and Kubernetes against programs that answer as documented."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dathvd.errors import UserError
from dathvd.service import record, submission
from dathvd.service.engines import ENGINES, build_engine
from dathvd.service.engines.base import Submitted, Unreachable, View
from dathvd.service.engines.kubernetes import Kubernetes, manifest
from dathvd.service.engines.lsf import Lsf
from dathvd.service.engines.lsf import batch_script as lsf_script
from dathvd.service.observe import observe
from dathvd.service.record import Job
from tests.processes import environment
from tests.single.test_launchers import check, documents

ROOT = Path(__file__).parents[2]
ONE_MACHINE = ROOT / "launchers" / "slurm" / "one-machine.sh"
SLURM = ("munged", "slurmctld", "slurmd", "sbatch")


def job(**fields: Any) -> Job:
    usual = {"engine": "lsf", "num_proc": 2, "arguments": ("train", "--set", "seed=1")}
    return record.new_job(**{**usual, "folder": "/work dir", **fields})


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a program first on PATH; returns the file of its calls, one a line."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, output: str = "", error: str = "", code: int = 0) -> Path:
        calls = tmp_path / f"{name}.calls"
        script = (
            f"#!{sys.executable} -S\nimport json, sys\n"
            f"text = '' if sys.stdin.closed else sys.stdin.read()\n"
            f"file = open({str(calls)!r}, 'a')\n"
            "file.write(json.dumps([sys.argv[1:], text]) + '\\n'); file.close()\n"
            f"print({output!r}); print({error!r}, file=sys.stderr); sys.exit({code})\n"
        )
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
        return calls

    return make


def calls_of(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_has_its_five_verbs_and_explains_its_options(name: str) -> None:
    engine = build_engine(name)
    assert engine.name == name
    for verb in ("submit", "find", "view_all", "stop", "resume"):
        assert callable(getattr(engine, verb))
    assert all(engine.option_names.values())


def test_unknown_engines_and_options_are_answered_with_the_nearest() -> None:
    for words, message in (
        ({"engine": "slurn"}, "--on slurn: .did you mean 'slurm'"),
        ({"options": {"max_restart": "1"}}, "did you mean 'max_restarts'"),
    ):
        with pytest.raises(UserError, match=message):
            submission.check(submission.Request(("train",), **words))


# LSF: bjobs -json as in IBM's reference, Spectrum LSF 10.1


def lsf_answer(*rows: dict[str, str]) -> str:
    return json.dumps({"COMMAND": "bjobs", "JOBS": len(rows), "RECORDS": list(rows)})


def test_lsf_is_asked_once_and_its_states_are_understood(
    program: Callable[..., Path],
) -> None:
    states = ["PEND", "PSUSP", "RUN", "DONE", "EXIT", "UNKWN"]
    jobs = [job() for _ in range(len(states) + 1)]
    rows = [
        {"JOBID": str(n), "JOB_NAME": each.name, "STAT": state}
        | {"PEND_REASON": "busy", "EXEC_HOST": "a:b", "EXIT_CODE": "3"}
        for n, (each, state) in enumerate(zip(jobs, states))
    ]
    calls = program("bjobs", lsf_answer(*rows, {"JOB_NAME": "other", "STAT": "RUN"}))
    views = Lsf().view_all([Submitted(Path("/r"), each, None) for each in jobs])
    assert len(calls_of(calls)) == 1
    seen = [views.get(each.uuid) for each in jobs]
    assert [view.state if isinstance(view, View) else None for view in seen] == [
        "queued",
        "queued",
        "running",
        "ended",
        "ended",
        "queued",
        None,
    ]
    assert seen[0] == View("queued", "busy") and seen[2] == View("running", "on a:b")
    assert seen[4] == View("ended", "LSF: it ended", 3)
    assert Lsf().find(Path("/r"), jobs[2]) == "2"
    assert Lsf().find(Path("/r"), jobs[6]) is None


def test_lsf_gets_a_script_that_watches_and_requeues(
    program: Callable[..., Path], tmp_path: Path
) -> None:
    calls = program("bsub", "Job <4711> is submitted to queue <normal>.")
    own = job(options={"queue": "gpu", "time": "4:00"})
    run = tmp_path / "a run"
    assert Lsf().submit(run, own) == "4711"
    ((words, script),) = calls_of(calls)
    assert words[words.index("-J") + 1] == own.name
    assert words[words.index("-n") + 1] == "2" and words[words.index("-q") + 1] == "gpu"
    assert "-wa" in words and script == lsf_script(run, own)
    checked = subprocess.run(["bash", "-n"], input=script, text=True)
    assert checked.returncode == 0
    # the hosts that LSF gave become those of dathvd launch; nothing else is expanded
    shown = script.replace("exec ", "printf '%s\\n' ")
    environ = {**os.environ, "LSB_MCPU_HOSTS": "a 2 b 4", "LSB_JOBID": "9"}
    done = subprocess.run(
        ["bash"], input=shown, env=environ, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert str(run) in lines and "a:2,b:4" in lines and "brequeue -r 9" in lines
    program("bsub", error="Queue does not accept: Request aborted by esub", code=255)
    with pytest.raises(UserError, match="Request aborted"):
        Lsf().submit(run, own)


def test_lsf_ends_what_waits_and_asks_what_runs(program: Callable[..., Path]) -> None:
    own = job()
    calls = program("bkill", "Job <5> is being terminated")
    for state, now, expected in (
        ("PEND", False, ["5"]),
        ("RUN", False, ["-s", "USR1", "5"]),
        ("RUN", True, ["5"]),
    ):
        row = {"JOBID": "5", "JOB_NAME": own.name, "STAT": state}
        program("bjobs", lsf_answer(row))
        Lsf().stop(Submitted(Path("/r"), own, "5"), now=now)
        assert calls_of(calls)[-1][0] == expected


def test_silence_is_not_an_empty_cluster(program: Callable[..., Path]) -> None:
    program("bjobs", error="LSF is down. Please wait ...", code=255)
    with pytest.raises(Unreachable, match="LSF is down"):
        Lsf().view_all([Submitted(Path("/r"), job(), None)])
    program("bjobs", error="No job found", code=255)
    assert Lsf().view_all([Submitted(Path("/r"), job(), None)]) == {}


# Kubernetes


def test_the_mpijob_of_an_attempt_fits_the_operators_schema() -> None:
    own = job(engine="kubernetes", options={"gpus": "1", "image": "me/dathvd:cuda"})
    made = manifest(Path("/runs/a"), own)
    model = documents(ROOT / "tests" / "single" / "data" / "mpijob_v2beta1.yaml")[0]
    assert list(check(made, model, "mpijob")) == []
    roles = made["spec"]["mpiReplicaSpecs"]
    assert roles["Worker"]["replicas"] == 2
    for role in roles.values():
        pod = role["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["image"] == "me/dathvd:cuda"
        # both see the runs at the path that the records name
        assert {"name": "runs", "mountPath": "/runs"} in container["volumeMounts"]
    with pytest.raises(UserError, match="is not below it"):
        manifest(Path("/elsewhere/a"), job(options={"mount": "/runs"}))


def test_kubernetes_states_are_understood(program: Callable[..., Path]) -> None:
    conditions = [[], ["Created", "Running"], ["Running", "Succeeded"], ["Failed"]]
    jobs = [job(engine="kubernetes") for _ in conditions]
    items = [
        {
            "metadata": {"name": each.name},
            "spec": {},
            "status": {
                "conditions": [
                    {"type": name, "status": "True", "message": f"{name}!"}
                    for name in names
                ]
            },
        }
        for each, names in zip(jobs, conditions)
    ]
    calls = program("kubectl", json.dumps({"items": items}))
    views = Kubernetes().view_all([Submitted(Path("/r"), each, None) for each in jobs])
    assert len(calls_of(calls)) == 1
    states = [views[each.uuid] for each in jobs]
    assert states[0] == View("queued", "its pods are not ready")
    assert states[1] == View("running")
    assert states[2] == View("ended", "Kubernetes: Succeeded!")
    assert states[3] == View("ended", "Kubernetes: Failed!")


def test_kubernetes_refusals_and_silence_are_told_apart(
    program: Callable[..., Path],
) -> None:
    own = job(engine="kubernetes", options={"namespace": "mine"})
    calls = program("kubectl", "mpijob created")
    assert Kubernetes().submit(Path("/runs/a"), own) == own.name
    ((words, text),) = calls_of(calls)
    assert words == ["-n", "mine", "create", "-f", "-"]
    assert json.loads(text) == manifest(Path("/runs/a"), own)
    program("kubectl", error='no matches for kind "MPIJob"', code=1)
    with pytest.raises(UserError, match="no matches for kind"):
        Kubernetes().submit(Path("/runs/a"), own)
    program("kubectl", error="Error from server (NotFound): mpijobs", code=1)
    assert Kubernetes().find(Path("/runs/a"), own) is None
    program("kubectl", error="Unable to connect to the server: timeout", code=1)
    with pytest.raises(Unreachable, match="Unable to connect"):
        Kubernetes().find(Path("/runs/a"), own)


# Slurm, for real

needs_slurm = [
    pytest.mark.slurm,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd needs root"),
    pytest.mark.skipif(
        any(
            shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
            for name in SLURM
        ),
        reason="Slurm is not installed",
    ),
]
QUICK = [
    "--set", "data.name=synthetic", "--set", "data.image_size=8",
    "--set", "data.num_train=90", "--set", "data.num_test=30",
    "--set", "train.batch_size=32", "--set", "model.width=4",
    "--set", "train.log_every=1", "--set", "train.checkpoint_every=1000",
    "--set", "attack.num_steps=2", "--set", "evaluation.attack.num_steps=2",
    "--set", "evaluation.pictures=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([str(ONE_MACHINE), "up", str(folder)], check=True, timeout=90)
    yield folder
    subprocess.run([str(ONE_MACHINE), "down", str(folder)], timeout=60)


def wait_for(run: Path, *states: str, seconds: float = 150) -> str:
    limit = time.monotonic() + seconds
    while (state := observe(run).state) not in states:
        log = run / "job" / "output-1.log"
        said = log.read_text() if log.exists() else "nothing"
        assert time.monotonic() < limit, f"{state}: {said}"
        time.sleep(0.3)
    return state


class TestSlurm:
    """Jobs of a Slurm on this machine."""

    pytestmark = needs_slurm

    def test_a_run_is_stopped_resumed_and_finished(
        self, slurm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in environment({"SLURM_CONF": f"{slurm}/slurm.conf"}).items():
            monkeypatch.setenv(name, value)
        epochs = 4000  # of 3 steps: more than a quick machine takes in this test
        run = submission.submit(
            submission.Request(
                ("train", *QUICK, "--set", f"train.epochs={epochs}"),
                engine="slurm",
                num_proc=2,
                root=slurm / "runs",
            )
        )
        blocked = submission.submit(
            submission.Request(
                ("train", *QUICK), engine="slurm", num_proc=4, root=slurm / "runs"
            )
        )
        metrics, limit = run / "metrics.jsonl", time.monotonic() + 120
        while not metrics.exists() and time.monotonic() < limit:
            time.sleep(0.2)
        assert observe(run).state == "running"
        assert observe(blocked).state == "queued" and observe(blocked).reason
        submission.stop(blocked)
        assert wait_for(blocked, "stopped") == "stopped"
        submission.stop(run)
        assert wait_for(run, "stopped") == "stopped"
        # a stop stops: exit 75 does not bring the job back into the queue
        assert observe(run).reason == "with a checkpoint"
        time.sleep(2)
        assert observe(run).state == "stopped"
        first = len(metrics.read_text().splitlines())
        assert first < 3 * epochs
        submission.resume(run)
        wait_for(run, "running")
        time.sleep(8)  # the controller has written its state by then
        # its controller dies: nothing is known meanwhile, and nothing is lost
        pid = int((slurm / "slurmctld.pid").read_text())
        os.kill(pid, 9)
        time.sleep(1)
        assert observe(run).state == "unknown"
        subprocess.run(["slurmctld", "-f", str(slurm / "slurm.conf")], check=True)
        wait_for(run, "running", "finished")
        submission.stop(run, now=True)
        assert wait_for(run, "stopped", "finished")

    def test_what_slurm_refuses_is_one_line(
        self, slurm: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SLURM_CONF", f"{slurm}/slurm.conf")
        options = {"partition": "none-such"}
        with pytest.raises(UserError, match="sbatch: .*partition"):
            submission.submit(
                submission.Request(
                    ("train", *QUICK),
                    engine="slurm",
                    options=options,
                    root=slurm / "runs",
                )
            )
