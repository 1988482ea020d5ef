"""The queue of one machine, with real processes that are really killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from dathvd.errors import UserError
from dathvd.service import record, submission
from dathvd.service.engines.local import Local
from dathvd.service.engines.tickets import Queue, queue_folder
from dathvd.service.observe import observe, observe_all
from dathvd.service.status import ENDED
from tests.service.stub import request

pytestmark = pytest.mark.usefixtures("stubs")
STUB = [sys.executable, str(Path(__file__).with_name("stub.py"))]


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Until it holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.05)


def states(runs: list[Path]) -> list[str]:
    """The runs' states, now."""
    return [seen.state for seen in observe_all(runs)]


def starts(run: Path) -> int:
    """How often a run's command was started."""
    file = run / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def supervisors(folder: Path) -> list[psutil.Process]:
    """The supervisors of this test's queue."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = process.info["cmdline"] or []
        environ = process.info["environ"] or {}
        if "supervise" in words and environ.get("DATHVD_STATE") == str(folder):
            found.append(process)
    return found


def test_jobs_run_in_order_on_as_many_slots_as_they_need(tmp_path: Path) -> None:
    wide = submission.submit(request(tmp_path, 0.6, num_proc=2))
    narrow = [submission.submit(request(tmp_path, each)) for each in (60, 60, 0.3)]
    runs = [wide, *narrow]
    wait_for(lambda: observe(wide).state == "running")
    assert states(narrow) == ["queued"] * 3
    reasons = [observe(run).reason for run in narrow]
    assert reasons == [f"place {n} in the queue" for n in (1, 2, 3)]
    # two fit beside each other, and none of them ends before it is woken
    wait_for(lambda: states(narrow) == ["running", "running", "queued"])
    wait_for(lambda: [starts(run) for run in narrow] == [1, 1, 0])
    for run in narrow[:2]:
        (run / "wake").touch()
    wait_for(lambda: states(runs) == ["finished"] * 4)
    assert [starts(run) for run in runs] == [1] * 4
    first = [(run / "starts").stat().st_mtime for run in runs]
    # two are let in together, and either may be the first to get going
    assert first[0] < min(first[1:3]) and max(first[1:3]) < first[3]
    exit_of_wide = record.read_exit(wide, 1)
    assert exit_of_wide is not None and exit_of_wide.at < min(first[1:3])
    assert not Queue(queue_folder()).tickets()


def test_more_ranks_than_slots_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="-np 3: this machine's queue has 2 slots"):
        submission.submit(request(tmp_path, 0.1, num_proc=3))
    assert not list(tmp_path.rglob(record.JOB_FILE))


def test_a_job_that_waits_and_one_that_runs_are_stopped_and_resumed(
    tmp_path: Path,
) -> None:
    running = submission.submit(request(tmp_path, 60, num_proc=2))
    waiting = submission.submit(request(tmp_path, 60, num_proc=2))
    wait_for(lambda: starts(running) == 1)
    submission.stop(waiting)
    wait_for(lambda: observe(waiting).state == "stopped")
    assert observe(waiting).reason == "without a checkpoint" and not starts(waiting)
    submission.stop(running)
    wait_for(lambda: observe(running).state == "stopped")
    assert observe(running).reason == "with a checkpoint"
    for run in (running, waiting):
        assert submission.resume(run).attempt == 2
        with pytest.raises(UserError, match="stop it first"):
            submission.resume(run)
    wait_for(lambda: starts(running) == 2)
    submission.stop(running, now=True)
    submission.stop(waiting, now=True)
    wait_for(lambda: states([running, waiting]) == ["stopped"] * 2)


def test_a_failure_tells_its_cause_and_a_retry_starts_anew(tmp_path: Path) -> None:
    run = tmp_path / "one"
    run.mkdir()
    (run / "fail").touch()
    assert submission.submit(request(tmp_path, 0.05, run=run)) == run
    wait_for(lambda: observe(run).state == "failed")
    assert observe(run).reason == "rank 1 on here: it had to be"
    with pytest.raises(UserError, match="holds a job already"):
        submission.submit(request(tmp_path, 0.05, run=run))
    again = submission.retry(run)
    assert again == tmp_path / "one-retry"
    wait_for(lambda: observe(again).state == "finished")
    with pytest.raises(UserError, match="it is finished"):
        submission.resume(again)


def test_a_chain_waits_and_ends_with_its_first_failure(tmp_path: Path) -> None:
    first = submission.submit(request(tmp_path, 0.5))
    second = submission.submit(request(tmp_path, 0.1, after=first))
    third = submission.submit(request(tmp_path, 0.1, after=second))
    assert observe(second).reason == "waits for another run"
    # those that wait for another run let others pass
    other = submission.submit(request(tmp_path, 0.1))
    wait_for(lambda: states([first, second, third, other]) == ["finished"] * 4)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "fail").touch()
    submission.submit(request(tmp_path, 0.1, run=bad))
    orphan = submission.submit(request(tmp_path, 0.1, after=bad))
    wait_for(lambda: observe(orphan).state == "failed")
    assert f"the run before it, {bad}, is failed" in observe(orphan).reason
    assert not starts(orphan)


def test_a_job_outlives_its_shell(tmp_path: Path) -> None:
    shell = subprocess.Popen(
        ["bash", "-c", f"{' '.join(STUB)} submit {tmp_path} 0.5; sleep 60"],
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert shell.stdout is not None
    run = Path(shell.stdout.readline().strip())
    os.killpg(shell.pid, signal.SIGHUP)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()
    wait_for(lambda: observe(run).state == "finished")


def test_a_killed_supervisor_ends_a_running_job_and_no_waiting_one(
    tmp_path: Path,
) -> None:
    running = submission.submit(request(tmp_path, 60, num_proc=2))
    waiting = submission.submit(request(tmp_path, 0.1, num_proc=2))
    wait_for(lambda: starts(running) == 1)
    for process in supervisors(queue_folder()):
        process.kill()
    wait_for(lambda: observe(running).state == "failed")
    assert observe(running).reason == "its supervisor was killed"
    wait_for(lambda: observe(waiting).state == "finished")
    submission.resume(running)
    wait_for(lambda: starts(running) == 2)
    submission.stop(running)
    wait_for(lambda: observe(running).state == "stopped")


def test_a_ticket_has_one_supervisor_from_the_first_moment(tmp_path: Path) -> None:
    """However often it is looked at while its supervisor's process starts."""
    first = submission.submit(request(tmp_path, 60, num_proc=2))
    waiting = [submission.submit(request(tmp_path, 60)) for _ in range(2)]
    for _ in range(40):
        states([first, *waiting])
        names = [process.cmdline()[3] for process in supervisors(queue_folder())]
        assert len(names) == len(set(names)) <= 3
    wait_for(lambda: states([first]) == ["running"])
    for run in (first, *waiting):
        submission.stop(run, now=True)
    wait_for(lambda: states([first, *waiting]) == ["stopped"] * 3)


def test_a_submission_cut_after_any_step_is_seen_rightly_and_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(BaseException):
        pass

    def cut(*given: object, **named: object) -> str:
        raise Cut

    # after job.json
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(Local, "submit", cut)
        submission.submit(request(tmp_path, 0.1, run=tmp_path / "a"))
    assert observe(tmp_path / "a").reason == "being submitted"
    # after the engine took it
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(record, "write_id", cut)
        submission.submit(request(tmp_path, 0.1, run=tmp_path / "b"))
    wait_for(lambda: observe(tmp_path / "b").state == "finished")
    # a server that is started again completes what a killed one left, once
    assert submission.complete(tmp_path / "a")
    assert not submission.complete(tmp_path / "a")
    wait_for(lambda: observe(tmp_path / "a").state == "finished")
    assert starts(tmp_path / "a") == 1


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_killed_no_run_starts_twice_and_none_is_lost(
    tmp_path: Path, seed: int
) -> None:
    """Submitters and supervisors are killed at random moments."""
    trial(tmp_path, random.Random(seed), jobs=3, kills=4)


def trial(
    root: Path, chance: random.Random, jobs: int, kills: int, pace: float = 0.4
) -> dict[str, int]:
    """Submit stubs, kill what runs them, and check every state; how many ended how.

    Kills are ``pace`` seconds apart at most.
    """
    submitters = []
    for _ in range(jobs):
        submitters.append(
            subprocess.Popen(
                [*STUB, "submit", str(root), f"{chance.uniform(0, 0.3):.2f}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    for _ in range(kills):
        time.sleep(chance.uniform(0, pace))
        victims = [p for p in submitters if p.poll() is None]
        others = supervisors(queue_folder())
        if victims and chance.random() < 0.4:
            chance.choice(victims).kill()
        elif others:
            chance.choice(others).kill()
    for process in submitters:
        process.wait()
    runs = sorted(path.parent for path in root.rglob(record.JOB_FILE))
    ended: dict[str, int] = {}

    def settled() -> bool:
        for seen in observe_all(runs):
            if seen.status.reason == "being submitted":
                submission.hand_over(Path(seen.run), seen.job)
            assert seen.state in (*ENDED, "queued", "running"), seen
        return all(state in ENDED for state in states(runs))

    wait_for(settled, 120)
    for seen in observe_all(runs):
        run = Path(seen.run)
        assert starts(run) <= 1, f"{run} was started twice"
        assert seen.state == "finished" or (
            seen.state == "failed" and "supervisor was killed" in seen.status.reason
        ), seen
        assert seen.state != "finished" or (run / "result.json").exists()
        ended[seen.state] = ended.get(seen.state, 0) + 1
    return ended
