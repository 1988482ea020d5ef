"""What is said of measured rows, and what is kept out of it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dathvd.benchmark.speedup.rows import LOCAL, SweepRow
from dathvd.benchmark.speedup.study import SIZES, studies, write_files
from dathvd.benchmark.speedup.summary import advice, speed_up, to_csv, to_table

# a link of 50 MB/s, and a codec that makes 44 MB to 4
SECONDS = {"none": 0.88, "sign": 0.08}


def row(
    codec: str, workers: int, overlap: str = "none", rate: str | None = None
) -> SweepRow:
    exchanged = codec != LOCAL
    sent = 2 * 44e6 * (workers - 1) / workers * (SECONDS.get(codec, 0) / 0.88)
    took = sent / 50e6
    exposed = max(0.0, took - (0.2 if overlap == "attack" else 0.0))
    return SweepRow(
        num_workers=workers,
        codec=codec,
        exchange="allreduce" if exchanged else "none",
        overlap=overlap,
        batch_size_per_worker=8,
        step_seconds=0.4 + exposed,
        step_spread=0.01,
        compute_seconds=0.4,
        data_seconds=0.01,
        attack_seconds=0.2,
        update_seconds=0.19,
        exposed_seconds=exposed,
        bytes_sent=sent,
        traffic={"allreduce": (2, sent)} if exchanged and workers > 1 else {},
        num_steps=5,
        hosts=workers,
        oversubscribed=False,
        device="cpu",
        rate=rate if workers > 1 else None,
    )


def sweep(*sizes: int, rate: str | None = None) -> list[SweepRow]:
    rows = [row(LOCAL, size, rate=rate) for size in sizes]
    for size in sizes:
        if size > 1:
            for codec in SECONDS:
                rows += [row(codec, size, mode, rate) for mode in ("none", "attack")]
    return rows


def test_speed_up_is_images_per_second_over_one_worker() -> None:
    rows = sweep(1, 4)
    found = speed_up(row("none", 4), rows)
    assert found == pytest.approx(4 * 0.4 / row("none", 4).step_seconds)


def test_oversubscribed_and_local_rows_claim_no_speed_up() -> None:
    rows = sweep(1, 4)
    assert speed_up(replace(row("none", 4), oversubscribed=True), rows) is None
    assert speed_up(row(LOCAL, 4), rows) is None
    assert speed_up(row("none", 4), rows[1:]) is None  # no single worker was measured


def test_an_oversubscribed_row_is_labelled_in_the_table_and_in_the_csv() -> None:
    rows = [*sweep(1), replace(row("none", 4), oversubscribed=True)]
    line = to_table(rows, "title").splitlines()[-1]
    assert line.endswith("oversubscribed")
    record = list(csv.DictReader(io.StringIO(to_csv(rows))))[-1]
    assert record["oversubscribed"] == "True"
    assert record["speed_up"] == record["efficiency"] == ""


def test_columns_of_the_table_are_aligned() -> None:
    lines = to_table(sweep(1, 16), "title").splitlines()[1:]
    place = lines[0].index("ratio") + len("ratio")
    for line in lines[1:]:
        assert line[place - 1].isdigit() and line[place : place + 1] in ("", " ")


def test_advice_names_the_best_way_and_what_it_saves() -> None:
    (sentence,) = advice(sweep(1, 2))
    plain, best = row("none", 2).step_seconds, row("sign", 2, "attack").step_seconds
    assert f"none takes {plain / 0.4:.2f} times" in sentence
    assert "sign with overlap" in sentence
    assert sentence.endswith(f"{1 - best / plain:.0%} less.")


def test_advice_says_when_compression_does_not_matter() -> None:
    rows = [
        replace(r, step_seconds=0.40 + 0.01 * (r.codec == "none")) for r in sweep(1, 2)
    ]
    assert advice(rows)[0].endswith("; no other way measured here saves 5 %.")


def test_advice_compares_nothing_where_one_way_was_measured() -> None:
    rows = [r for r in sweep(1, 2) if r.is_local or r.codec == "none"]
    rows = [r for r in rows if r.overlap == "none"]
    (sentence,) = advice(rows)
    assert sentence.endswith("times the step without communication.")


def test_there_is_advice_for_each_rate_at_its_most_workers() -> None:
    rows = sweep(1, 2, 4, rate="50mbit") + sweep(2, rate="1gbit")
    first, second = advice(rows)
    assert first.startswith("With 4 workers over links of 50mbit")
    assert second.startswith("With 2 workers over links of 1gbit")


def test_predictions_are_apart_from_measurements(tmp_path: Path) -> None:
    rows = sweep(1, 2, 4)
    found = studies(rows, shared_workers=None)
    report = write_files(found, rows, {"cores": 2}, tmp_path)
    written = json.loads((tmp_path / "speedup.json").read_text(encoding="utf-8"))
    assert written["rows"] == json.loads(json.dumps(report["rows"]))
    assert all(r["measured"] and "predicted" not in r for r in written["rows"])
    assert all(p["predicted"] for p in written["predictions"])
    assert {r["num_workers"] for r in written["rows"]} == {1, 2, 4}
    assert {p["num_workers"] for p in written["predictions"]} == set(SIZES)
    # the rows were made by the model's own law, so it must foretell the held-out ones
    assert len(written["held_out"]) == 4
    assert max(abs(item["error"]) for item in written["held_out"]) < 1e-6
    for name in ("time.png", "speedup.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_no_prediction_rests_on_oversubscribed_points(tmp_path: Path) -> None:
    crowded = [replace(r, oversubscribed=r.num_workers > 1) for r in sweep(1, 2, 4)]
    (study,) = studies(crowded, shared_workers=1)
    assert study.predicted == []
    assert len(study.held_out) == 4
    write_files([study], crowded, {}, tmp_path)


def test_each_rate_has_its_files_and_the_single_worker_in_each(tmp_path: Path) -> None:
    rows = sweep(1) + sweep(2, rate="50mbit")[1:] + sweep(2, rate="1gbit")[1:]
    found = studies(rows, shared_workers=2)
    assert [study.rate for study in found] == ["50mbit", "1gbit"]
    assert all(study.rows[0].num_workers == 1 for study in found)
    write_files(found, rows, {}, tmp_path)
    assert (tmp_path / "speedup-50mbit.png").exists()
    assert (tmp_path / "time-1gbit.png").exists()
