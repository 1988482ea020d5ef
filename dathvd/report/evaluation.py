"""Tables and curves of an evaluation's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from dathvd.report.plots import new_figure, save_figure
from dathvd.report.tables import plain_console

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, Any]]
"""``cells`` of an evaluation's JSON."""

_LINES = ("-", "--", ":", "-.")


def print_grid(result: dict[str, Any], *, title: str) -> None:
    """The table of all cells, and the worst case of each radius."""
    table = Table(title=title)
    for name in ("attack", "epsilon", "steps", "restarts", "accuracy %"):
        table.add_column(name, justify="left" if name == "attack" else "right")
    table.add_row("clean", "0", "", "", _percent(result["clean_accuracy"]))
    for row in _attacked(result["cells"]):
        table.add_row(
            row["attack"],
            f"{row['epsilon']:.4g}",
            "" if row["num_steps"] is None else str(row["num_steps"]),
            str(row["restarts"]),
            _percent(row["robust_accuracy"]),
        )
    table.add_section()
    for row in _attacked(result["worst_case"]):
        epsilon, accuracy = row["epsilon"], _percent(row["robust_accuracy"])
        table.add_row("all together", f"{epsilon:.4g}", "", "", accuracy)
    notes = [f"{result['num_samples']} samples"]
    if result["only_survivors"]:
        notes.append("each attack on what survived those above it")
    table.caption = "; ".join(notes)
    plain_console().print(table)


def print_corruptions(result: dict[str, Any], *, title: str) -> None:
    """Accuracies by kind and severity, and their means."""
    accuracy: dict[str, dict[str, float]] = result["accuracy"]
    severities = list(next(iter(accuracy.values())))
    table = Table(title=f"{title}: corrupted images, accuracy %")
    table.add_column("corruption")
    for severity in (*severities, "mean"):
        table.add_column(severity, justify="right")
    for name, shares in accuracy.items():
        values = list(shares.values())
        cells = [*values, sum(values) / len(values)]
        table.add_row(name, *map(_percent, cells))
    table.caption = f"mean {_percent(result['mean_accuracy'])}; {result['source']}"
    plain_console().print(table)


def _attacked(rows: Rows) -> Rows:
    return [row for row in rows if row["epsilon"] > 0]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def plot_grid(result: dict[str, Any], path: Path) -> None:
    """Accuracy over epsilon, and over steps where there are several numbers."""
    rows = result["cells"]
    over_steps = len({row["num_steps"] for row in rows} - {None}) > 1
    figure = new_figure(12 if over_steps else 6, 3.6)
    axes = figure.subplots(1, 1 + over_steps, squeeze=False)[0]
    _plot_epsilons(axes[0], result)
    if over_steps:
        _plot_steps(axes[1], rows)
    for part in axes:
        part.set_ylim(-2, 102)
        part.set_ylabel(f"accuracy (%), {result['num_samples']} samples")
        part.grid(alpha=0.3)
        part.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def _plot_epsilons(axes: Axes, result: dict[str, Any]) -> None:
    clean = {"epsilon": 0.0, "robust_accuracy": result["clean_accuracy"]}
    for (attack, steps), rows in _groups(
        _attacked(result["cells"]), lambda row: (row["attack"], row["num_steps"])
    ):
        name = attack if steps is None else f"{attack}-{steps}"
        _curve(axes, [clean, *rows], "epsilon", name)
    worst = [clean, *_attacked(result["worst_case"])]
    _curve(axes, worst, "epsilon", "all together", color="black", linestyle="--")
    axes.set_xlabel("epsilon")


def _plot_steps(axes: Axes, rows: Rows) -> None:
    stepped = [row for row in rows if row["num_steps"]]
    attacks = list(dict.fromkeys(row["attack"] for row in stepped))
    radii = list(dict.fromkeys(row["epsilon"] for row in stepped))
    for (attack, epsilon), group in _groups(
        stepped, lambda row: (row["attack"], row["epsilon"])
    ):
        style = {
            "color": f"C{radii.index(epsilon)}",
            "linestyle": _LINES[attacks.index(attack) % len(_LINES)],
        }
        _curve(axes, group, "num_steps", f"{attack}, epsilon {epsilon:.3g}", **style)
    axes.set_xscale("log")
    axes.set_xlabel("steps")


def _groups(
    rows: Rows, key: Callable[[dict[str, Any]], tuple[Any, ...]]
) -> Iterable[tuple[tuple[Any, ...], Rows]]:
    names = dict.fromkeys(key(row) for row in rows)
    return [(name, [row for row in rows if key(row) == name]) for name in names]


def _curve(axes: Axes, rows: Rows, over: str, label: str, **style: Any) -> None:
    accuracies = [100 * row["robust_accuracy"] for row in rows]
    axes.plot([row[over] for row in rows], accuracies, marker=".", label=label, **style)
