"""Pieces of work go to whoever has time, each to one, and none is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.parallel.queue_worker import COUNT
from tests.processes import mpirun

SIZE = 3


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """What each rank did, by case."""
    folder = tmp_path_factory.mktemp("queue")
    worker = Path(__file__).with_name("queue_worker.py")
    env = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    finished = mpirun(SIZE, [sys.executable, worker, folder], env=env, timeout=240)
    assert finished.code == 0, finished.output
    return {
        case: [
            json.loads((folder / f"{case}-{rank}.json").read_text())
            for rank in range(SIZE)
        ]
        for case in ("uneven", "lost", "unreachable")
    }


def test_every_piece_is_done_once(done: dict[str, list[list[int]]]) -> None:
    for case, ranks in done.items():
        assert sorted(sum(ranks, [])) == list(range(COUNT)), case


def test_a_slow_worker_takes_fewer(done: dict[str, list[list[int]]]) -> None:
    assert len(done["uneven"][1]) < COUNT // SIZE // 2 < len(done["uneven"][0])


def test_without_a_way_to_rank_0_pieces_go_round(
    done: dict[str, list[list[int]]],
) -> None:
    expected = [list(range(rank, COUNT, SIZE)) for rank in range(SIZE)]
    assert done["unreachable"] == expected
