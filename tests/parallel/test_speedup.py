"""The whole sweep through horovodrun: one worker, then two, one command."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.processes import DATHVD, Finished, run

QUICK = [
    "--config", "digits",
    "--set", "model.name=mlp", "--set", "model.width=16",
    "--set", "attack.num_steps=2", "--batch-size-per-worker", "4",
    "--codecs", "horovod,none,sign:two-way", "--warmup", "1", "--repeats", "3",
]  # fmt: skip
# the multilayer perceptron on 1x8x8 images: weights travel coded, biases do not
WEIGHTS = 64 * 128 + 128 * 128 + 128 * 10
BIASES = 128 + 128 + 10


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("speedup")
    command = [DATHVD, "benchmark-speedup", "--np", "1,2", *QUICK]
    files = ["--output", str(folder / "out"), "--json", str(folder / "rows.json")]
    done = run([*command, *files], timeout=280)
    assert done.code == 0, done.output
    return folder, done


@pytest.fixture(scope="module")
def rows(swept: tuple[Path, Finished]) -> list[dict[str, Any]]:
    text = (swept[0] / "rows.json").read_text(encoding="utf-8")
    return list(json.loads(text)["rows"])


def test_there_is_a_row_for_each_point(rows: list[dict[str, Any]]) -> None:
    found = [(r["num_workers"], r["codec"], r["exchange"], r["overlap"]) for r in rows]
    assert found == [
        (1, "local", "none", "none"),
        (2, "local", "none", "none"),
        (2, "horovod", "allreduce", "none"),
        (2, "none", "allreduce", "none"),
        (2, "none", "allreduce", "attack"),
        (2, "sign", "two-way", "none"),
        (2, "sign", "two-way", "attack"),
    ]


def test_the_parts_of_a_step_add_up(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        parts = [f"{part}_seconds" for part in ("data", "attack", "update", "exposed")]
        assert sum(row[part] for part in parts) == pytest.approx(row["step_seconds"])
        assert row["attack_seconds"] > 0 and row["num_steps"] == 3
        assert row["oversubscribed"] is False


def test_bytes_are_those_of_the_closed_forms(rows: list[dict[str, Any]]) -> None:
    sent = {(r["codec"], r["overlap"]): r["bytes_sent"] for r in rows if r["hosts"]}
    full = 4 * (WEIGHTS + BIASES)  # 2 (N-1)/N = 1 with two workers
    assert sent["horovod", "none"] == full
    assert sent["none", "none"] == sent["none", "attack"] == full
    # a bit a value, and a scale a block; biases as they are
    sign = sent["sign", "none"] - 4 * BIASES
    assert WEIGHTS / 8 < sign < 2 * WEIGHTS / 8
    assert sent["local", "none"] == 0


def test_files_are_complete(swept: tuple[Path, Finished]) -> None:
    folder = swept[0] / "out"
    report = json.loads((folder / "speedup.json").read_text(encoding="utf-8"))
    assert report == json.loads((swept[0] / "rows.json").read_text(encoding="utf-8"))
    assert report["predictions"] and all(p["predicted"] for p in report["predictions"])
    with (folder / "speedup.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(report["rows"])
    for name in ("speedup.png", "time.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_the_table_and_a_sentence_of_advice_are_printed(
    swept: tuple[Path, Finished],
) -> None:
    output = swept[1].stdout
    assert "ratio: to the same step without communication" in output
    assert len(re.findall(r"^ +2  sign +two-way +\w+  ", output, re.MULTILINE)) == 2
    assert "With 2 workers over this link, plain Horovod takes" in output
    assert "predicted for 1024 such hosts" in output


def test_a_mistake_of_the_ranks_is_one_line(tmp_path: Path) -> None:
    bad = ["--set", "model.name=small_cn", "--np", "1", "--output", str(tmp_path)]
    done = run([DATHVD, "benchmark-speedup", *bad], timeout=120)
    assert done.code == 2
    assert done.stderr.count("\n") == 1, done.output
    assert (
        "dathvd: error: " in done.stderr and "did you mean 'small_cnn'" in done.stderr
    )
