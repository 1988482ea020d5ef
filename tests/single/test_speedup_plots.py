"""Pictures of a sweep: lines that can be told apart, bars that can be read."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dathvd.benchmark.speedup import plots
from dathvd.benchmark.speedup.cluster_model import Prediction
from dathvd.benchmark.speedup.plots import label_of, styles
from dathvd.benchmark.speedup.rows import LOCAL, SweepRow
from dathvd.compression import COMPRESSORS
from dathvd.compression.base import exchanges_of

KEYS = [("horovod", "allreduce", "none")] + [
    (name, exchange, overlap)
    for name, codec in COMPRESSORS.items()
    for exchange in exchanges_of(codec)
    for overlap in ("none", "attack")
]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: kept.append(figure))
    return kept


def row(workers: int, codec: str, exchange: str, overlap: str) -> SweepRow:
    return SweepRow(
        num_workers=workers, codec=codec, exchange=exchange, overlap=overlap,
        batch_size_per_worker=4, step_seconds=1.2, step_spread=0.06,
        compute_seconds=1.0, data_seconds=0.1, attack_seconds=0.7, update_seconds=0.3,
        exposed_seconds=0.1, bytes_sent=1e6, num_steps=3, hosts=1,
        oversubscribed=False, device="cpu",
    )  # fmt: skip


def rows() -> list[SweepRow]:
    alone = [row(size, LOCAL, "none", "none") for size in (1, 2)]
    return [*alone, *itertools.starmap(lambda *key: row(2, *key), KEYS)]


def test_no_two_lines_are_alike() -> None:
    """A colour a codec, dashes for overlap, a mark an exchange; own codecs as well."""
    keys = [*KEYS, ("mine:One", "two-way", "none"), ("mine:Two", "two-way", "none")]
    found = styles(keys)
    looks = [(to_hex(s.colour), s.line, s.marker) for s in found.values()]
    assert len(set(looks)) == len(keys)
    for (codec, _, overlap), style in found.items():
        assert (style.line == "--") is (overlap == "attack")
        for (other, _, _), second in found.items():
            same = to_hex(style.colour) == to_hex(second.colour)
            assert same is (codec == other), (codec, other)


def test_predictions_have_bands(figures: list[Figure]) -> None:
    guesses = [Prediction(*KEYS[0], n, 1.0, efficiency=0.8) for n in (2, 4, 8)]
    plots.plot_speed_up(rows(), guesses, Path("x.png"), error=0.25)
    plots.plot_speed_up(rows(), guesses, Path("x.png"))
    for figure, error in zip(figures, (0.25, 0.06 / 1.2)):
        (band,) = figure.axes[1].collections
        heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
        found = sorted({round(float(height), 6) for height in heights})
        assert found == [round(0.8 / (1 + e), 6) for e in (error, -error)]


def test_bars_are_grouped_and_named(figures: list[Figure]) -> None:
    measured = rows()
    plots.plot_parts(measured, Path("x.png"))
    (figure,) = figures
    assert figure.get_figwidth() <= 9.0  # as wide as a README
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["alone", "alone", *map(label_of, KEYS)]
    assert [text.get_text() for text in axes.texts] == ["1 worker", "2 workers"]
    places = [float(place) for place in axes.get_yticks()]
    gaps = [high - low for high, low in zip(places, places[1:])]
    assert gaps == pytest.approx([2.2] + [1.0] * (len(KEYS)))
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    stacks = [bars[place :: len(measured)] for place in range(len(measured))]
    lengths = [sum(bar.get_width() for bar in stack) for stack in stacks]
    assert lengths == pytest.approx([each.step_seconds for each in measured])
