"""A campaign goes on where its file ends; a clock of its own steps."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dathvd.commands.rig import command
from dathvd.errors import UserError
from dathvd.rig.chaos import Campaign, Verdict, clock, read, write
from dathvd.rig.chaos.faults import FAULTS, ordered
from dathvd.rig.chaos.job import Job
from dathvd.rig.chaos.rounds import Reference, judge_end

FAULT = "kill-rank"
END = Reference({"parameters_sha256": "a" * 64}, 10.0, 5.0)


def campaign(folder: Path) -> Campaign:
    return Campaign(3, [FAULT], folder, (1, 2), undisturbed={2: END})


def verdict(number: int, *problems: str) -> Verdict:
    return Verdict(
        number, FAULT, 2, "step 3", True, [0], 9.0, 1.5, problems=list(problems)
    )


def chaos(file: Path, *options: str) -> Result:
    words = ["chaos", "--seed", "3", "--sizes", "1,2", "--fault", FAULT]
    words += ["--rounds", "2", "--json", str(file), *options]
    return CliRunner().invoke(command, words, standalone_mode=False)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    played = [verdict(4), verdict(1, "hung")]
    write(file, campaign(tmp_path), played)
    later = replace(campaign(tmp_path), undisturbed={})
    assert read(file, later) == [played[1], played[0]]  # in the order of the rounds
    assert later.undisturbed == {2: END}
    assert json.loads(file.read_text())["rounds_with_problems"] == 1


def test_a_round_is_the_same_whichever_others_are_played(tmp_path: Path) -> None:
    """So that a campaign in pieces is the campaign in one."""
    one, other = campaign(tmp_path), campaign(tmp_path)
    for number in (0, 1, 2):
        other.plan(number)
    (fault, size, random), again = one.plan(3), other.plan(3)
    assert (fault, size, random.getstate()) == (*again[:2], again[2].getstate())


def test_a_fault_strikes_as_many_ranks_as_it_takes(tmp_path: Path) -> None:
    """A wrong bit is found by comparing ranks: one alone cannot know."""
    alone = Campaign(3, ["wrong-bit", "kill-rank"], tmp_path, (1,))
    sizes = {alone.plan(number)[:2] for number in range(20)}
    assert sizes == {("wrong-bit", 2), ("kill-rank", 1)}


@pytest.mark.parametrize(("problems", "code"), [((), 0), (("hung",), 1)])
def test_nothing_is_played_twice(
    tmp_path: Path, problems: tuple[str, ...], code: int
) -> None:
    """A campaign that is complete tells its table, and its exit code, once more."""
    file = tmp_path / "chaos.json"
    write(file, campaign(tmp_path), [verdict(0), verdict(1, *problems)])
    before = file.read_bytes()
    done = chaos(file, "--folder", str(tmp_path / "jobs"))
    assert done.exception is None
    assert done.return_value == code
    assert "SIGKILL to a rank" in done.output
    assert file.read_bytes() == before
    assert not (tmp_path / "jobs").exists()


def test_another_campaign_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "chaos.json"
    write(file, campaign(tmp_path), [verdict(0)])
    done = chaos(file, "--seed", "8")
    assert isinstance(done.exception, UserError)
    assert "has seed 3, this one 8" in str(done.exception)
    done = chaos(file, "--fault", "stop-rank")
    assert "has faults kill-rank, this one kill-rank, stop-rank" in str(done.exception)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 3}', "\x00\xff"])
def test_what_is_no_campaign_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "chaos.json"
    file.write_text(text)
    done = chaos(file)
    assert isinstance(done.exception, UserError)
    assert "is not a campaign's file" in str(done.exception)


@pytest.mark.skipif(clock.missing() is not None, reason="needs cc")
def test_the_time_of_day_steps_and_no_other_clock(tmp_path: Path) -> None:
    """While a process runs, and for that process alone."""
    code = (
        "import time\nwhile input(): print(time.time(), time.monotonic(), flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **clock.environment(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        for wrong in (0, 400 * 86400, -300, 0):
            clock.step(tmp_path, wrong)
            process.stdin.write("now\n")
            process.stdin.flush()
            told, monotonic = map(float, process.stdout.readline().split())
            assert told - time.time() == pytest.approx(wrong, abs=1)
            assert monotonic == pytest.approx(time.monotonic(), abs=1)
        process.stdin.write("\n")
    assert process.returncode == 0


def test_a_disk_becomes_read_only_while_files_are_written(tmp_path: Path) -> None:
    """A job opens files at any moment, such as its next log."""
    fault = FAULTS["disk-read-only"]
    if (missing := fault.missing()) is not None:
        pytest.skip(f"needs {missing}")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=True)
    ended = threading.Event()

    def write_on() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError), (disk / "log").open("a") as file:
                time.sleep(1e-3)
                file.write("a line")

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        job = Job(tmp_path, 1, [], {})
        for _ in range(5):
            fault.strike(job, random.Random(0))
            with pytest.raises(OSError, match="Read-only"):
                (disk / "other").touch()
            fault.mend(job, random.Random(0))
            (disk / "other").touch()
    finally:
        ended.set()
        writer.join()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_what_a_signal_reaches_before_its_first_word_may_die_of_it(
    tmp_path: Path,
) -> None:
    job, early = Job(tmp_path, 1, [], {}), -signal.SIGUSR1
    fault = FAULTS["usr1-launcher"]
    assert judge_end(job, early, fault, struck=True) == []
    assert judge_end(job, early, fault, struck=False) == ["exit code -10"]
    assert judge_end(job, early, FAULTS["kill-rank"], struck=True) == ["exit code -10"]
    job.output.write_text("[0] run folder\n")
    assert judge_end(job, early, fault, struck=True) == ["exit code -10"]


def test_an_order_that_came_after_the_last_pass_is_seen(tmp_path: Path) -> None:
    FAULTS["infinity"].strike(Job(tmp_path, 1, [], {}), random.Random(0))
    assert ordered(tmp_path)
    (tmp_path / "order").unlink()  # as the rank that obeys does
    assert not ordered(tmp_path)
