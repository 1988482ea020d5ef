"""Tables in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from dathvd.ranks import under_launcher


def plain_console() -> Console:
    """A console whose tables stay whole and free of control codes in logs."""
    if Console().is_terminal and not under_launcher():
        return Console()
    return Console(width=100, force_terminal=False)


def print_accuracy(result: dict[str, Any], *, title: str) -> None:
    """The table at the end of training and evaluation."""
    table = Table(title=title)
    table.add_column("accuracy on the test set")
    table.add_column("%", justify="right")
    table.add_column("samples", justify="right")
    samples = str(result["num_samples"])
    table.add_row("clean", f"{100 * result['clean_accuracy']:.2f}", samples)
    row = f"robust ({result['attack']})"
    table.add_row(row, f"{100 * result['robust_accuracy']:.2f}", samples)
    others = {
        "ema_": f"averaged weights ({result.get('ema_name', 'EMA')})",
        "best_": f"best checkpoint (step {result.get('best_step')})",
        "best_ema_": "best checkpoint, averaged weights (EMA)",
    }
    for prefix, words in others.items():
        for name in ("clean", "robust"):
            if f"{prefix}{name}_accuracy" in result:
                value = f"{100 * result[f'{prefix}{name}_accuracy']:.2f}"
                table.add_row(f"{name}, {words}", value, samples)
    plain_console().print(table)
