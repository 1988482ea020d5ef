"""Pictures beside the numbers, as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dathvd.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor


def new_figure(width: float, height: float) -> Figure:
    """A figure that needs no display; inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG atomically."""
    write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=110)
    )  # fmt: skip


def plot_training(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss, accuracies and learning rate over epochs.

    Args:
        rows: of ``metrics.jsonl``.
        path: the PNG.
    """
    figure = new_figure(11, 3.4)
    loss, accuracy, rate = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]
    losses = [(row["epoch"], row["loss"]) for row in rows if "loss" in row]
    if losses:
        loss.plot(*zip(*losses), color="C3")
    loss.set_title("training loss")
    for name, colour in (("clean", "C0"), ("robust", "C1")):
        key = f"{name}_accuracy"
        points = [(row["epoch"], 100 * row[key]) for row in rows if key in row]
        if points:
            accuracy.plot(*zip(*points), color=colour, label=name)
            accuracy.legend(loc="lower right")
    accuracy.set_title("accuracy on training batches (%)")
    accuracy.set_ylim(0, 101)
    rate.plot(epochs, [row["lr"] for row in rows], color="C2")
    rate.set_title("learning rate")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    save_figure(figure, path)


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
    figure = new_figure(8, 4.2)
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
    named = len(layers) <= most_named
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
    figure = new_figure(1.5 * count, 5.2)
    grid = figure.subplots(3, count, squeeze=False)
    delta = adversarial - clean
    scale = float(delta.abs().max()) or 1.0
    rows = (clean, adversarial, delta / (2 * scale) + 0.5)
    for column in range(count):
        titles = (
            f"{labels[column]}\nread as {before[column]}",
            f"read as {after[column]}",
            f"within ±{scale:.3g}",
        )
        for axes, images, title in zip(grid[:, column], rows, titles, strict=True):
            image = np.moveaxis(images[column].cpu().numpy(), 0, -1)
            colours = "gray" if image.shape[-1] == 1 else None
            axes.imshow(image.squeeze(-1) if colours else image, cmap=colours, vmin=0, vmax=1)  # fmt: skip  # noqa: E501
            axes.set_title(title, fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
    for axes, name in zip(
        grid[:, 0], ("clean", "adversarial", "perturbation"), strict=True
    ):
        axes.set_ylabel(name)
    save_figure(figure, path)
