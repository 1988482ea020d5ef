"""Table and picture of the checks for masked gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console

_WORDS = {True: "pass", False: "FLAG", None: "?"}


def print_sanity(result: dict[str, Any], *, title: str) -> None:
    """The table of checks, flags standing out, and the verdict."""
    table = Table(title=f"{title}: {describe_setting(result)}")
    table.add_column("check")
    table.add_column("", justify="center")
    table.add_column("reason")
    for check in result["checks"]:
        style = "bold red" if check["passed"] is False else None
        word = _WORDS[check["passed"]]
        table.add_row(check["name"], word, check["reason"], style=style)
    table.caption = verdict(result)
    plain_console().print(table)


def describe_setting(result: dict[str, Any]) -> str:
    """Radius, steps and number of samples in one line."""
    return (
        f"{result['norm']} epsilon {result['epsilon']:.4g}, "
        f"PGD-{result['num_steps']}, {result['num_samples']} samples"
    )


def verdict(result: dict[str, Any]) -> str:
    """What the checks say together."""
    if result["flagged"]:
        return f"{result['flagged']} flagged: gradients may be masked"
    return "no sign of masked gradients"


def plot_sanity(result: dict[str, Any], path: Path) -> None:
    """Accuracy over epsilon, over steps, and under each attack at one radius."""
    figure = new_figure(11, 3.6)
    radii, steps, attacks = figure.subplots(1, 3)
    points = [
        {"epsilon": 0.0, "robust_accuracy": result["accuracy"]["clean"]},
        *result["over_epsilon"],
    ]
    for axes, rows, name in (
        (radii, points, "epsilon"),
        (steps, result["over_steps"], "num_steps"),
    ):
        shares = [100 * row["robust_accuracy"] for row in rows]
        axes.plot([row[name] for row in rows], shares, marker=".", color="C1")
        axes.set_xlabel(name.replace("num_", ""))
        axes.set_ylabel("accuracy (%)")
        axes.set_ylim(-2, 102)
        axes.grid(alpha=0.3)
    steps.set_xscale("log")
    names = list(result["accuracy"])
    attacks.barh(names, [100 * share for share in result["accuracy"].values()])
    attacks.invert_yaxis()
    attacks.set_xlim(0, 102)
    attacks.set_xlabel(f"accuracy (%) at epsilon {result['epsilon']:.3g}")
    colour = "C3" if result["flagged"] else "C2"
    figure.suptitle(verdict(result), color=colour, fontsize=10)
    save_figure(figure, path)
