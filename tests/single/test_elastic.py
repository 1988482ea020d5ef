"""Elastic jobs: which hosts serve, when to change, and what is not started again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.launch import Host, LaunchOptions
from dathvd.launch.attempts import Job, Plan
from dathvd.launch.elastic import Membership, Probation, discover
from dathvd.launch.reach import Answers
from dathvd.launch.report import RankEnded
from dathvd.launch.supervise import Outcome

OPTIONS = LaunchOptions(num_proc=1)


class World:
    """Hosts, those of them that answer, and a clock."""

    def __init__(self, **slots: int) -> None:
        self.slots, self.silent, self.time = dict(slots), set[str](), 0.0
        self.said: list[str] = []

    def find(self) -> tuple[Host, ...]:
        return tuple(Host(name, count) for name, count in self.slots.items())

    def answering(self, options: LaunchOptions) -> Answers:
        there = tuple(h for h in options.hosts if h.name not in self.silent)
        silent = {h.name: f"host {h}" for h in options.hosts if h not in there}
        names = {f"{h.name}.site": h.name for h in there}
        return Answers(there, silent, "eth7", names)

    def members(self, least: int, most: int) -> Membership:
        probation = Probation(lambda: self.time)
        return Membership(
            least, most, self.find, self.said.append, self.answering, probation
        )


def chosen(members: Membership) -> tuple[int, str]:
    options = members.choose(OPTIONS)
    assert options is not None
    return options.num_proc, " ".join(host.name for host in options.hosts)


def test_ranks_follow_the_hosts_between_the_bounds() -> None:
    world = World(a=2, b=4)
    members = world.members(least=2, most=5)
    assert chosen(members) == (5, "a b")
    world.silent = {"b"}
    assert chosen(members) == (2, "a")
    del world.slots["a"]
    assert members.choose(OPTIONS) is None  # b does not answer
    world.silent = set()
    assert chosen(members) == (4, "b")


def test_an_attempt_makes_way_for_a_better_one_only() -> None:
    world = World(a=2, b=2)
    members = world.members(least=1, most=4)
    current = members.choose(OPTIONS)
    assert current is not None and not members.should_change(current)
    world.slots["c"] = 2  # as many as may be are at work
    assert not members.should_change(current)
    world.slots["b"] = 1
    assert members.should_change(current)
    current = members.choose(OPTIONS)
    assert current is not None and current.num_proc == 4
    del world.slots["c"]
    assert members.should_change(current)


def test_a_host_that_does_not_answer_is_no_reason_to_change() -> None:
    world = World(a=2, b=2)
    world.silent = {"b"}
    members = world.members(least=1, most=4)
    current = members.choose(OPTIONS)
    assert current is not None and not members.should_change(current)
    world.silent = set()
    assert members.should_change(current)


def test_a_host_that_fails_twice_is_left_out_for_ten_minutes() -> None:
    world = World(a=2, b=2)
    members = world.members(least=2, most=4)
    members.probation.failed("b")
    world.time = 599
    assert chosen(members) == (4, "a b")
    members.probation.failed("b")
    assert chosen(members) == (2, "a")
    current = members.choose(OPTIONS)
    assert current is not None and not members.should_change(current)
    world.time += 601
    assert members.should_change(current) and chosen(members) == (4, "a b")
    members.probation.failed("b")  # more than ten minutes after the one before
    assert chosen(members) == (4, "a b")


def test_the_host_that_is_silent_is_blamed_else_the_one_that_reported() -> None:
    """Both ends of a lost link report; a host calls itself by another name."""
    world = World(a=2, b=2)
    members = world.members(least=2, most=4)
    for _ in range(2):
        assert chosen(members) == (4, "a b")
        members.suspect("a.site")
        world.silent = {"b"}
        assert chosen(members) == (2, "a")
        world.silent = set()
    assert members.probation.holds("b") and not members.probation.holds("a")
    world.time += 601
    for _ in range(2):
        assert chosen(members) == (4, "a b")
        members.suspect("a.site")
    assert chosen(members) == (2, "b")  # though the first of them had been asked too


def test_ranks_talk_over_the_interface_that_was_found() -> None:
    options = World(a=1).members(least=1, most=1).choose(OPTIONS)
    assert options is not None and options.network_interface == "eth7"


def test_none_is_left_out_where_too_few_would_stay() -> None:
    world = World(a=2)
    members = world.members(least=2, most=2)
    members.probation.failed("a")
    members.probation.failed("a")
    assert chosen(members) == (2, "a")


def test_waiting_ends_with_hosts_or_with_a_signal() -> None:
    world = World()
    members = world.members(least=1, most=2)
    looks = []

    def stopped(seconds: float) -> bool:
        looks.append(seconds)
        if len(looks) == 3:
            world.slots["a"] = 1
        return False

    options = members.wait(OPTIONS, stopped)
    assert options is not None and options.num_proc == 1 and len(looks) == 3
    assert world.said == ["waiting for hosts with at least 1 slots"]
    world.slots.clear()
    assert members.wait(OPTIONS, lambda seconds: True) is None


def script(folder: Path, text: str) -> str:
    file = folder / "hosts.sh"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_a_script_lists_hosts(tmp_path: Path) -> None:
    found = discover(script(tmp_path, "echo a:2; echo '# no'; echo b slots=3; echo c"))
    assert found == (Host("a", 2), Host("b", 3), Host("c", 1))
    assert discover(script(tmp_path, "true")) == ()
    with pytest.raises(UserError, match="exit code 3"):
        discover(script(tmp_path, "exit 3"))
    with pytest.raises(UserError, match="not a host name"):
        discover(script(tmp_path, "echo -oProxyCommand=x"))


def job(folder: Path, ends: list[RankEnded], num_proc: int, restarts: int) -> Job:
    """A launcher that says so of its ranks, and counts how often it was started."""
    lines = "".join(f"print({end.to_line()!r}); " for end in ends)
    text = f"{lines}open({str(folder / 'starts')!r}, 'a').write('x')"
    plan = Plan([sys.executable, "-c", text], dict(os.environ), folder / "run")
    return Job(plan, LaunchOptions(num_proc=num_proc), restarts, grace=5)


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def test_an_error_of_the_program_is_not_tried_for_ever(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = [RankEnded(0, "a", 1, "ValueError: shapes differ")]
    assert job(tmp_path, ends, num_proc=1, restarts=5).run() == 1
    assert starts(tmp_path) == 2
    assert "the same error at step 0 twice" in capfd.readouterr().err


@pytest.mark.slow
def test_a_fault_of_the_machine_is_tried_again(tmp_path: Path) -> None:
    ends = [RankEnded(0, "a", 1, "cannot write x: Input/output error")]
    assert job(tmp_path, ends, num_proc=1, restarts=2).run() == 1
    assert starts(tmp_path) == 3


def test_a_rank_lost_without_a_word_is_no_preemption(tmp_path: Path) -> None:
    """Its companion was killed; mpirun then ended the other, which said it saved."""
    ends = [RankEnded(1, "a", 75)]
    assert job(tmp_path, ends, num_proc=2, restarts=1).run() == 75
    assert starts(tmp_path) == 2


def test_ranks_that_all_saved_were_preempted(tmp_path: Path) -> None:
    ends = [RankEnded(0, "a", 75), RankEnded(1, "a", 75)]
    assert job(tmp_path, ends, num_proc=2, restarts=1).run() == 75
    assert starts(tmp_path) == 1


def test_ranks_that_saved_below_a_frozen_launcher_were_not_preempted() -> None:
    ends = [RankEnded(0, "a", 75), RankEnded(1, "a", 75)]
    frozen = Outcome(code=1, num_proc=2, ends=ends, frozen=True)
    assert frozen.broken and not Outcome(code=1, num_proc=2, ends=ends).broken
    assert not Outcome(code=1, num_proc=2, ends=ends[:1], stopped_by=15).broken
    assert not Outcome(code=1, num_proc=2, ends=ends[:1], made_way=True).broken
