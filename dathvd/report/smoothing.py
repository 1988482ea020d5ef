"""The table of certified accuracies."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from dathvd.report.tables import plain_console


def print_certificates(result: dict[str, Any], *, title: str) -> None:
    """Certified accuracy over the radius."""
    table = Table(title=title)
    table.add_column("Euclidean radius", justify="right")
    table.add_column("certified accuracy %", justify="right")
    for radius, share in result["certified_accuracy"].items():
        table.add_row(radius, f"{100 * share:.2f}")
    table.caption = (
        f"{result['num_samples']} samples, sigma {result['sigma']:g}, "
        f"{result['num_draws']} draws, {100 * result['abstained']:.2f} % unsure; "
        f"average radius {result['average_radius']:.3f}"
    )
    plain_console().print(table)
