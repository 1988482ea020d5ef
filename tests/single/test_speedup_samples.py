"""From timed steps on every worker to a row: which worker counts, what is added up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dathvd.benchmark.speedup.plan import PLAIN, Plan, Point
from dathvd.benchmark.speedup.samples import Launch, Sample, critical
from dathvd.config import Config

STEP = Sample(
    data=0.1,
    attack=0.5,
    update=0.3,
    exposed=0.2,
    sent=1000.0,
    kernel=1010.0,
    traffic={"allreduce": (2, 1000.0)},
)


def launch(size: int = 2, hosts: int = 2, shared: bool = False) -> Launch:
    plan = Plan(
        config=Config(),
        points=(),
        warmup=0,
        repeats=1,
        seconds=1,
        pin=False,
        shared_machine=shared,
        rate=None,
    )
    return Launch(plan, size, size // hosts, hosts, 1, "cpu", num_values=500)


def test_the_worker_that_the_others_wait_for_counts() -> None:
    # the second one is late: the first waits for it, not for the network
    waiting = replace(STEP, attack=0.3, exposed=0.4)
    late = replace(STEP, attack=0.5, exposed=0.2)
    assert critical([[waiting], [late]]) == [late]


def test_without_communication_the_slowest_counts() -> None:
    quick, slow = (replace(STEP, exposed=0.0, update=u) for u in (0.2, 0.4))
    assert critical([[quick, slow], [slow, quick]]) == [slow, slow]


def test_a_row_holds_medians_over_steps_and_means_of_bytes_over_workers() -> None:
    steps = [replace(STEP, exposed=e) for e in (0.1, 0.2, 0.9)]
    point = Point("none", "allreduce", "none")
    others = [replace(step, sent=2000.0, exposed=1.0) for step in steps]
    row = launch().row(point, [steps, others], compute_seconds=0.8)
    assert row.step_seconds == pytest.approx(0.1 + 0.5 + 0.3 + 0.2)
    assert row.exposed_seconds == 0.2
    assert row.bytes_sent == 1500.0
    assert row.kernel_bytes == 1010.0
    assert row.ratio == pytest.approx(1.1 / 0.8)
    assert row.num_steps == 3


def test_what_codecs_and_other_threads_took_is_in_no_sum() -> None:
    steps = [replace(STEP, codec=c, background=9 * c) for c in (0.01, 0.02, 0.07)]
    row = launch().row(Point("sign", "two-way", "attack"), [steps, steps], 0.9)
    assert row.codec_seconds == 0.02
    assert row.background_seconds == pytest.approx(0.18)
    assert row.step_seconds == pytest.approx(STEP.total)


def test_a_packet_sent_twice_in_one_step_changes_no_row() -> None:
    steps = [replace(STEP, kernel=k) for k in (1010.0, 1010.0, 65010.0)]
    row = launch().row(Point("none", "allreduce", "none"), [steps, [STEP] * 3], 0.8)
    assert row.kernel_bytes == 1010.0


def test_bytes_of_the_kernel_are_not_given_to_hosts_with_several_workers() -> None:
    point = Point("none", "allreduce", "none")
    ranks = [[STEP]] * 4
    assert launch(4, 4).row(point, ranks, 0.8).kernel_bytes == 1010.0
    assert launch(4, 2).row(point, ranks, 0.8).kernel_bytes == 1010.0 / 2
    assert launch(4, 1).row(point, ranks, 0.8).kernel_bytes is None


def test_plain_horovod_is_given_the_bytes_of_a_ring_allreduce() -> None:
    silent = replace(STEP, sent=0.0, traffic={})
    point = Point(PLAIN, "allreduce", "none")
    row = launch(4, 4).row(point, [[silent]] * 4, compute_seconds=0.6)
    assert row.bytes_sent == 2 * 3 / 4 * 4 * 500
    assert row.exposed_seconds == silent.exposed


@pytest.mark.parametrize(
    ("size", "hosts", "shared", "expected"),
    [
        (8, 4, False, False),
        (9, 3, False, True),
        (2, 2, True, False),  # a rig's hosts share the machine's cores
        (4, 4, True, True),
    ],
)
def test_more_threads_than_cores_are_oversubscribed(
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    hosts: int,
    shared: bool,
    expected: bool,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert launch(size, hosts, shared).oversubscribed() is expected
