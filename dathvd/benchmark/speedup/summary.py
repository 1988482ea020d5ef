"""What a sweep says: speed-ups, a table, a sentence of advice."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dathvd.benchmark.speedup.plan import PLAIN
from dathvd.benchmark.speedup.rows import SweepRow


def single_worker(rows: Sequence[SweepRow]) -> SweepRow | None:
    """The one-worker step that speed-ups are relative to."""
    alone = [row for row in rows if row.num_workers == 1 and not row.oversubscribed]
    return alone[0] if alone else None


def speed_up(row: SweepRow, rows: Sequence[SweepRow]) -> float | None:
    """Images per second as a multiple of one worker's.

    It is None where there is no claim to make: the row is oversubscribed or exchanges
    nothing, or no single worker was measured.
    """
    one = single_worker(rows)
    if one is None or row.oversubscribed or (row.is_local and row.num_workers > 1):
        return None
    return row.images_per_second / one.images_per_second


def to_record(row: SweepRow, rows: Sequence[SweepRow]) -> dict[str, Any]:
    """A row with what follows from it, as plain values."""
    claimed = speed_up(row, rows)
    return {
        "measured": True,
        **asdict(row),
        "images_per_second": row.images_per_second,
        "ratio": row.ratio,
        "speed_up": claimed,
        "efficiency": None if claimed is None else claimed / row.num_workers,
    }


def to_csv(rows: Sequence[SweepRow]) -> str:
    """The records as CSV, without the entries that do not fit a cell."""
    records = [to_record(row, rows) for row in rows]
    names = [name for name in records[0] if name != "traffic"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def to_table(rows: Sequence[SweepRow], title: str) -> str:
    """The measured rows as aligned text.

    Args:
        rows: measured, of one rate.
        title: the line above them.
    """
    head = ["workers", "codec", "exchange", "overlap", "step s", "±", "ratio"]
    head += ["exposed s", "MB sent", "images/s", "speed-up", "efficiency"]
    cells = [head, *(_cells(row, rows) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        padded = [
            text.ljust(width) if 0 < place < 4 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join([title, *lines])


def _cells(row: SweepRow, rows: Sequence[SweepRow]) -> list[str]:
    claimed = speed_up(row, rows)
    claim = ["-", "oversubscribed" if row.oversubscribed else "-"]
    if claimed is not None:
        claim = [f"{claimed:.2f}", f"{claimed / row.num_workers:.0%}"]
    return [
        str(row.num_workers),
        row.codec,
        row.exchange,
        row.overlap,
        f"{row.step_seconds:.3f}",
        f"{row.step_spread:.3f}",
        f"{row.ratio:.2f}",
        f"{row.exposed_seconds:.3f}",
        f"{row.bytes_sent / 1e6:.2f}",
        f"{row.images_per_second:.1f}",
        *claim,
    ]


def advice(rows: Sequence[SweepRow]) -> list[str]:
    """A sentence for each rate at its largest number of workers."""
    sentences = []
    for rate in dict.fromkeys(row.rate for row in rows if row.num_workers > 1):
        here = [row for row in rows if row.rate == rate and row.num_workers > 1]
        most = max(row.num_workers for row in here)
        sentences.append(_advice([row for row in here if row.num_workers == most]))
    return [sentence for sentence in sentences if sentence]


def _advice(rows: Sequence[SweepRow]) -> str:
    exchanged = [row for row in rows if not row.is_local]
    if not exchanged:
        return ""
    plain = [row for row in exchanged if row.overlap == "none"]
    base = next(
        (row for name in (PLAIN, "none") for row in plain if row.codec == name),
        exchanged[0],
    )
    best = min(exchanged, key=lambda row: row.step_seconds)
    where = f"{base.num_workers} workers"
    where += f" over links of {base.rate}" if base.rate else " over this link"
    if base.oversubscribed:
        where += " (oversubscribed: the ratios hold, speeds do not)"
    name = "plain Horovod" if base.codec == PLAIN else base.codec
    cost = f"{name} takes {base.ratio:.2f} times the step without communication"
    saved = 1 - best.step_seconds / base.step_seconds
    if len(exchanged) == 1:
        return f"With {where}, {cost}."
    if saved < 0.05:
        return f"With {where}, {cost}; no other way measured here saves 5 %."
    how = best.codec + (" with overlap" if best.overlap == "attack" else "")
    how += f" ({best.exchange})"
    return f"With {where}, {cost}; {how} takes {best.ratio:.2f}, {saved:.0%} less."
