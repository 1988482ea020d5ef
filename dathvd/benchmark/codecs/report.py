"""The figures as a table, as JSON lines and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from dathvd.benchmark.codecs.timing import CodecRow
from dathvd.files import write_text
from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console


def print_table(rows: list[CodecRow], device: str) -> None:
    """Print a row for each codec; the caption says what was encoded, where and how."""
    first = rows[0]
    paths = sorted({row.path for row in rows} - {"torch"})
    compiled = f" Compiled kernels: {', '.join(paths) or 'not built'}."
    table = Table(
        caption=(
            f"{first.num_values:,} values: {first.gradient}. One thread of {device}; "
            "medians of rounds in which the codecs took turns; cost is encode + decode "
            "as a multiple of a memcpy of the float32 vector, ± half the distance of "
            f"the quartiles. Error is ‖Q(g) − g‖² / ‖g‖².{compiled}"
        )
    )
    for column in (
        "codec",
        "bytes",
        "of fp32",
        "encode ms",
        "decode ms",
        "cost",
        "error",
        "feedback",
    ):
        number = column not in ("codec", "feedback")
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(
            row.codec,
            f"{row.bytes:,}",
            f"{row.bytes / (4 * row.num_values):.2%}",
            f"{row.encode_ms:.2f}",
            f"{row.decode_ms:.2f}",
            f"{row.ratio:.2f}±{row.spread:.2f}",
            f"{row.error_energy:.2g}",
            "yes" if row.error_feedback else "no",
        )
    plain_console().print(table)


def write_lines(rows: list[CodecRow], path: Path) -> None:
    """Write each row as one line of JSON."""
    lines = [json.dumps(row.to_json(), ensure_ascii=False) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def plot(rows: list[CodecRow], path: Path) -> None:
    """Draw cost, bytes and error energy of each codec."""
    figure = new_figure(11, 3.6)
    names = [row.codec for row in rows]
    panels: dict[str, list[float]] = {
        "encode + decode, multiple of a memcpy": [row.ratio for row in rows],
        "payload, share of float32": [row.bytes / (4 * row.num_values) for row in rows],
        "error energy": [row.error_energy for row in rows],
    }
    for axis, (title, lengths) in zip(figure.subplots(1, len(panels)), panels.items()):
        bars = axis.barh(names, lengths, color="#4477aa")
        axis.bar_label(bars, fmt="%.2g", padding=3, fontsize=8)
        axis.set(title=title, xscale="log")
        axis.invert_yaxis()
        axis.margins(x=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{rows[0].num_values:,} values: {rows[0].gradient}", fontsize=8)
    save_figure(figure, path)
