"""Which points a sweep has, what its ranks are told, what a failed launch says."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from dathvd.benchmark.speedup.options import overlap_modes
from dathvd.benchmark.speedup.plan import Plan, Point
from dathvd.benchmark.speedup.sweep import Sweep, _run, points_of, read_rows
from dathvd.config import Config
from dathvd.errors import UserError
from dathvd.lists import (
    fractions,
    integers,
    named_fractions,
    some_integers,
    words,
)


def test_points_are_the_combinations_that_exist() -> None:
    found = points_of(["horovod", "none", "sign"], ["auto"], ["none", "attack"])
    assert found == (
        Point("horovod", "allreduce", "none"),
        Point("none", "auto", "none"),
        Point("none", "auto", "attack"),
        Point("sign", "auto", "none"),
        Point("sign", "auto", "attack"),
    )


def test_a_codec_takes_only_exchanges_that_can_carry_it() -> None:
    found = points_of(["powersgd", "sign"], ["allreduce", "two-way"], ["none"])
    assert [(p.codec, p.exchange) for p in found] == [
        ("powersgd", "allreduce"),
        ("sign", "two-way"),
    ]
    own = points_of(["sign:two-way", "fp16"], ["auto"], ["none"])
    assert [p.exchange for p in own] == ["two-way", "auto"]
    with pytest.raises(UserError, match="--exchanges: sign needs one of auto, "):
        points_of(["sign"], ["allreduce"], ["none"])


@pytest.mark.parametrize(
    ("codecs", "exchanges", "message"),
    [
        (["sgin"], ["auto"], "--codecs: unknown 'sgin' .did you mean 'sign'"),
        (
            ["sign"],
            ["two_way"],
            "--exchanges: unknown 'two_way' .did you mean 'two-way'",
        ),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(
    codecs: list[str], exchanges: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        points_of(codecs, exchanges, ["none"])


def test_lists_on_the_command_line() -> None:
    assert words("a, b,,a") == ("a", "b")
    assert words(None) == words("") == ()
    assert integers("--seeds", None) == ()
    assert some_integers("--np", "4,1,2,2", 1) == (4, 1, 2)
    assert fractions("--epsilon", "0, 8/255") == (0.0, 8 / 255)
    with pytest.raises(UserError, match="--epsilon: expected a number .* got 'x'"):
        fractions("--epsilon", "0.1,x")
    with pytest.raises(UserError, match="expected a number .* got '1e999'"):
        fractions("--epsilon", "1e999")
    assert named_fractions("--balls", "l2=1, linf=8/255") == {"l2": 1, "linf": 8 / 255}
    with pytest.raises(UserError, match="--balls: expected NAME=NUMBER, got 'linf='"):
        named_fractions("--balls", "l2=0.5,linf=")
    assert overlap_modes("none,attack") == ("none", "attack")
    for bad in ("", "0", "1,x", "-2"):
        with pytest.raises(UserError, match="--np: expected whole numbers .*1,2,4"):
            some_integers("--np", bad, 1)
    with pytest.raises(UserError, match="did you mean 'attack'"):
        overlap_modes("atack")


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    sweep = _sweep(tmp_path)
    path, _ = sweep._write_plan(2, "50mbit")
    plan = Plan.load(path)
    assert plan.points == sweep.points
    assert plan.rate == "50mbit" and plan.shared_machine
    # the batch grows with the workers
    assert plan.config.train.batch_size == 2 * sweep.config.train.batch_size


def test_one_worker_is_measured_without_any_exchange(tmp_path: Path) -> None:
    path, _ = _sweep(tmp_path)._write_plan(1, None)
    assert Plan.load(path).points == ()


def test_rows_that_are_missing_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="have left no rows there"):
        read_rows(tmp_path / "np2.json")


def test_a_failed_launch_says_what_a_rank_said() -> None:
    script = "print('noise'); print('[0] dathvd: error: no such data'); exit(2)"
    with pytest.raises(UserError, match="a launch failed: no such data$"):
        _run([sys.executable, "-c", script], {}, 30, lambda: None)


@pytest.mark.slow
def test_a_launch_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = (
        "import os, subprocess, time\n"
        f"child = subprocess.Popen(['sleep', '60']); open({str(mark)!r}, 'w').write("
        "str(child.pid))\n"
        "import signal; signal.signal(signal.SIGTERM, lambda *_: (child.kill(), "
        "child.wait(), os._exit(1)))\n"
        "time.sleep(60)"
    )
    cleaned: list[bool] = []
    with pytest.raises(UserError, match="took more than 2 s"):
        _run([sys.executable, "-c", script], {}, 2, lambda: cleaned.append(True))
    assert cleaned == [True]
    assert not Path("/proc", mark.read_text(encoding="utf-8")).exists()


def _sweep(folder: Path) -> Sweep:
    return Sweep(
        config=Config(),
        sizes=(1, 2),
        points=(Point("none", "auto", "attack"),),
        warmup=1,
        repeats=2,
        seconds=10,
        threads=1,
        pin=True,
        timeout=60,
        folder=folder,
    )


def test_the_setting_is_plain_values(tmp_path: Path) -> None:
    setting = _sweep(tmp_path).setting()
    assert json.loads(json.dumps(setting)) == setting
    assert setting["threads_per_worker"] == 1
    assert asdict(Point("none", "auto", "none"))["overlap"] == "none"
