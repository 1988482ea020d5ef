"""A rank's companion: what it keeps, and when it takes a rank for hung."""

from __future__ import annotations

import io
import os
import sys

import pytest

from dathvd.heartbeat import EVALUATING, TRAINING, Pulse
from dathvd.launch.output import Output
from dathvd.launch.stall import StallWatch


@pytest.mark.parametrize("fault", ["full disk", "closed"])
def test_a_log_that_cannot_be_written_hides_nothing(fault: str) -> None:
    log = open("/dev/full", "wb", buffering=0)
    if fault == "closed":
        log.close()
    output, shown = Output(3, log), io.BytesIO()
    output.write(b"epoch 1\n", shown)
    output.write(b"dathvd: error: no such file\n", sys.stderr.buffer)
    assert shown.getvalue() == b"[3] epoch 1\n"
    assert output.error == "no such file"
    log.close()


def test_a_launcher_that_reads_no_more_does_not_stop_the_log(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    read, write = os.pipe()
    os.close(read)
    log = io.BytesIO()
    with open(write, "wb", buffering=0) as gone:
        Output(0, log).write(b"epoch 1\n", gone)
    assert log.getvalue() == b"epoch 1\n"


def watch_of(*intervals: float, phase: int = TRAINING) -> StallWatch:
    """A watch with a limit of 5 s over a rank whose steps took so many seconds."""
    watch = StallWatch(Pulse.create()[0], limit=5.0)
    watch.pulse.beat(phase)
    assert watch.look(1.0, stopped=False) is None
    for interval in intervals:
        watch.pulse.beat(phase)
        assert watch.look(interval, stopped=False) is None
    return watch


def seconds_until_noticed(watch: StallWatch, tick: float = 1.0) -> float:
    """How long a rank may be silent, at most 1,000 s."""
    for count in range(1, int(1000 / tick)):
        if watch.look(tick, stopped=False) is not None:
            return count * tick
    return float("inf")


def test_the_limit_follows_the_longest_step() -> None:
    assert seconds_until_noticed(watch_of(0.1, 0.1, 0.1)) == 6.0
    assert seconds_until_noticed(watch_of(0.1, 2.0, 0.1)) == 41.0


def test_nothing_is_expected_before_steps_were_measured_or_at_rest() -> None:
    assert seconds_until_noticed(watch_of()) == float("inf")
    watch = watch_of(0.1, 0.1, 0.1)
    watch.pulse.rest()
    assert seconds_until_noticed(watch) == float("inf")
    watch.pulse.beat(EVALUATING)  # a part of an evaluation may take longer than a step
    assert seconds_until_noticed(watch) == float("inf")
    watch.pulse.beat(TRAINING)
    assert seconds_until_noticed(watch) == 7.0


def test_time_in_which_the_companion_was_suspended_too_hardly_counts() -> None:
    watch = watch_of(0.1, 0.1)
    assert watch.look(3600.0, stopped=False) is None
    assert watch.look(3600.0, stopped=True) is None


def test_a_stopped_rank_is_noticed_whatever_it_is_at() -> None:
    watch = watch_of()
    said = [watch.look(1.0, stopped=True) for _ in range(6)]
    assert said[:5] == [None] * 5 and "SIGSTOP" in str(said[5])
    assert watch.look(1.0, stopped=False) is None
