"""A run's history: what of it counts, and what was undone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dathvd.errors import UserError
from dathvd.run_history import (
    Attempt,
    Segment,
    append,
    identify,
    is_current,
    read,
    segments,
)


def test_attempts_are_read_as_they_were_written_and_a_torn_line_is_left_out(
    tmp_path: Path,
) -> None:
    attempts = [Attempt(0, 3), Attempt(40, 2)]
    for attempt in attempts:
        append(tmp_path, attempt)
    assert read(tmp_path) == attempts == read(tmp_path / "history.jsonl")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 4')
    assert read(tmp_path) == attempts
    append(tmp_path, Attempt(50, 4))
    assert read(tmp_path) == [*attempts, Attempt(50, 4)]


def test_what_is_no_history_is_refused(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("[1, 2]\n")
    with pytest.raises(UserError, match="not a history"):
        read(tmp_path)


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 4), st.integers(1, 50)), max_size=8
    )
)
def test_segments_say_who_trained_each_step(events: list[tuple[int, int, int]]) -> None:
    """Against the steps themselves: each attempt overwrites what comes after it."""
    attempts, trained = [], [0] * 200
    reached = 0
    for back, size, more in events:
        start = max(0, reached - back)
        if start >= len(trained):
            break
        attempts.append(Attempt(start, size))
        reached = start + more
        trained[start:] = [size] * (200 - start)
    expected, start = [0] * 200, 0
    for segment in segments(attempts):
        end = segment.end or 200
        assert start < end
        expected[start:end] = [segment.size] * (end - start)
        start = end
    assert expected == trained or not attempts


def test_what_a_later_attempt_went_behind_is_not_the_run_s() -> None:
    attempts = [Attempt(0, 3), Attempt(40, 3), Attempt(24, 2)]
    assert is_current(attempts, 0, 24) and not is_current(attempts, 0, 25)
    assert not is_current(attempts, 1, 47)
    assert is_current(attempts, 2, 99) and not is_current(attempts, 3, 10)
    assert segments(attempts) == [Segment(3, 24), Segment(2, 0)]


def test_a_run_in_which_the_guard_acted_is_not_replayed() -> None:
    with pytest.raises(UserError, match="the guard acted"):
        segments([Attempt(0, 2), Attempt(30, 3, guard_actions=1)])


def test_a_folder_made_anew_is_another_run(tmp_path: Path) -> None:
    first = identify(tmp_path)
    assert identify(tmp_path) == first
    (tmp_path / ".id").unlink()
    assert identify(tmp_path) != first
    (tmp_path / ".id").write_text("../elsewhere")
    with pytest.raises(UserError, match="not a run's name"):
        identify(tmp_path)


def test_what_workers_on_one_machine_would_sum_otherwise_is_not_replayed() -> None:
    with pytest.raises(UserError, match="node by node"):
        segments([Attempt(0, 4, by_nodes=True), Attempt(8, 2)])
