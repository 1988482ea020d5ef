"""Pictures beside the numbers, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dathvd.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


_LENGTH = "gradient_norm_squared"


@dataclass(frozen=True)
class Margins:
    """Room for what stands beside the axes, in inches."""

    left: float
    right: float
    top: float
    bottom: float
    between: float = 0.2
    """Of the width of the axes."""


def new_figure(width: float, height: float, margins: Margins | None = None) -> Figure:
    """A figure that needs no display.

    Args:
        width: in inches.
        height: in inches.
        margins: around the axes and between them; None has them measured from what is
            drawn, which takes half a second for a dozen axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(
        figsize=(width, height), layout="constrained" if margins is None else None
    )
    if margins is not None:
        figure.subplots_adjust(
            left=margins.left / width,
            right=1 - margins.right / width,
            top=1 - margins.top / height,
            bottom=margins.bottom / height,
            wspace=margins.between,
        )
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=110)
    )  # fmt: skip


_ACCURACIES = {
    "clean_accuracy": ("clean", "C0", "default"),
    "robust_accuracy": ("robust", "C1", "default"),
    # from the step in which it is probed to the next such step
    "probe_robust_accuracy": ("robust, images held out", "black", "steps-post"),
}
"""The label, colour and style of each accuracy in ``metrics.jsonl``."""


def plot_training(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracies (the guard's probe too) and learning rate over epochs, and the
    objective's gradient where it was measured.

    Args:
        rows: of ``metrics.jsonl``.
        path: the PNG.
    """
    lengths = [(row["epoch"], *_length(row)) for row in rows if _LENGTH in row]
    panels = 4 if lengths else 3
    figure = new_figure(11 * panels / 3, 3.4, Margins(0.5, 0.2, 0.4, 0.5))
    loss, accuracy, rate, *more = figure.subplots(1, panels)
    epochs = [row["epoch"] for row in rows]
    losses = [(row["epoch"], row["loss"]) for row in rows if "loss" in row]
    if losses:
        loss.plot(*zip(*losses), color="C3")
    loss.set_title("training loss")
    for key, (name, colour, style) in _ACCURACIES.items():
        points = [(row["epoch"], 100 * row[key]) for row in rows if key in row]
        if points:
            accuracy.plot(*zip(*points), color=colour, drawstyle=style, label=name)
            accuracy.legend(loc="lower right")
    accuracy.set_title("accuracy on training batches (%)")
    accuracy.set_ylim(0, 101)
    rate.plot(epochs, [row["lr"] for row in rows], color="C2")
    rate.set_title("learning rate")
    if lengths:
        places, values, errors = zip(*lengths)
        more[0].errorbar(places, values, errors, color="C4", elinewidth=0.5)
        more[0].set_title("|gradient of the objective|²")
    for axes in (loss, accuracy, rate, *more):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def _length(row: dict[str, Any]) -> tuple[float, float]:
    """The squared gradient norm of a row, and its standard error."""
    return row[_LENGTH], row[f"{_LENGTH}_error"]


def plot_trust_ratios(
    rows: Sequence[dict[str, Any]], path: Path, most_named: int = 12
) -> bool:
    """Each layer's trust ratio over the steps; nothing where no row has any.

    Args:
        rows: of ``metrics.jsonl``.
        path: the PNG.
        most_named: layers up to which each has a name in the legend; beyond, the colour
            tells the place in the network.

    Returns:
        Whether the picture was drawn.
    """
    rows = [row for row in rows if "trust_ratios" in row]
    if not rows:
        return False
    layers = list(rows[-1]["trust_ratios"])
    named = len(layers) <= most_named
    figure = new_figure(8, 4.2, Margins(0.7, 2.4 if named else 0.2, 0.4, 0.5))
    axes = figure.subplots()
    for place, layer in enumerate(layers):
        points = [
            (row["step"], row["trust_ratios"][layer])
            for row in rows
            if row["trust_ratios"].get(layer, 0) > 0
        ]
        colour = _scale_colour(place / max(len(layers) - 1, 1))
        steps, ratios = zip(*points) if points else ((), ())
        axes.plot(steps, ratios, color=colour, linewidth=1, label=layer)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    how = "" if named else f": {len(layers)} tensors, first (dark) to last (light)"
    axes.set_title(f"trust ratio{how}")
    if named:
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)
    return True


def _scale_colour(place: float) -> tuple[float, float, float, float]:
    """A colour of an even scale, for a place in [0, 1]."""
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["viridis"](place)
    return red, green, blue, alpha


def plot_examples(
    clean: Tensor,
    adversarial: Tensor,
    labels: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    path: Path,
) -> None:
    """Clean image, adversarial image and perturbation, a column a sample.

    Args:
        clean: ``[batch, channels, height, width]`` in [0, 1].
        adversarial: the same shape.
        labels: the true classes.
        before: the classes predicted on clean images.
        after: the classes predicted on adversarial images.
        path: the PNG.
    """
    count = len(labels)
    delta = adversarial - clean
    scale = float(delta.abs().max()) or 1.0
    rows = {
        "clean": clean,
        "adversarial": adversarial,
        "perturbation": delta / (2 * scale) + 0.5,
    }
    titles = {
        "clean": [f"{a}\nread as {b}" for a, b in zip(labels, before, strict=True)],
        "adversarial": [f"read as {name}" for name in after],
        "perturbation": [f"within ±{scale:.3g}"] * count,
    }
    figure = new_figure(1.5 * count, 5.2, Margins(0.3, 0.1, 0.1, 0.1))
    axes = figure.subplots()  # one for all images: each would take as long to draw
    axes.axis("off")
    height, width = clean.shape[-2:]
    across, down = 1.08 * width, 1.32 * height  # with room for a title above each
    for row, (name, images) in enumerate(rows.items()):
        top = row * down
        axes.text(
            -0.04 * width, top + height / 2, name, rotation=90, ha="right", va="center"
        )
        for column, image in enumerate(images):
            left = column * across
            pixels = np.moveaxis(image.cpu().numpy(), 0, -1)
            edges = (left, left + width, top + height, top)
            axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=edges)
            axes.text(
                left + width / 2,
                top - 0.03 * height,
                titles[name][column],
                fontsize=8,
                ha="center",
                va="bottom",
            )
    axes.set_xlim(-0.15 * width, count * across)
    axes.set_ylim(2 * down + height, -0.32 * height)
    save_figure(figure, path)
