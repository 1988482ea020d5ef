"""Pictures of a run: drawn from rows of metrics, and only where there is something."""

from __future__ import annotations

import math
from pathlib import Path

import numpy
import pytest
import torch
from matplotlib.figure import Figure

from dathvd.report import plots


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, kept for looking at."""
    kept: list[Figure] = []
    save = plots.save_figure

    def keep(figure: Figure, path: Path) -> None:
        kept.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save_figure", keep)
    return kept


@pytest.mark.parametrize("layers", [3, 40])
def test_each_layers_trust_ratio_is_a_line(
    layers: int, tmp_path: Path, figures: list[Figure]
) -> None:
    rows = [
        {"step": step, "trust_ratios": {f"layer{i}": step + i for i in range(layers)}}
        for step in (5, 10, 15)
    ]
    path = tmp_path / "trust_ratios.png"
    assert plots.plot_trust_ratios([{"step": 1}, *rows], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    [axes] = figures[0].axes
    assert len(axes.lines) == layers
    for place, line in enumerate(axes.lines):
        assert list(line.get_xdata()) == [5, 10, 15]  # type: ignore[arg-type]
        assert list(line.get_ydata()) == [5 + place, 10 + place, 15 + place]  # type: ignore[arg-type]  # noqa: E501
    assert (axes.get_legend() is not None) is (layers == 3)


def test_without_trust_ratios_there_is_no_picture(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": math.pi}]
    assert not plots.plot_trust_ratios(rows, tmp_path / "trust_ratios.png")
    assert not list(tmp_path.iterdir())


def test_examples_are_a_column_of_three_images_each(
    tmp_path: Path, figures: list[Figure]
) -> None:
    clean = torch.rand(5, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    moved = (clean + 0.1).clamp(max=1)
    names = [f"true {number}" for number in range(5)]
    read = [f"read {number}" for number in range(5)]
    path = tmp_path / "examples.png"
    plots.plot_examples(clean, moved, names, names, read, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    [axes] = figures[0].axes
    assert len(axes.images) == 15
    places = [image.get_extent() for image in axes.images]
    for place, (left, right, bottom, top) in enumerate(places):
        assert right - left == pytest.approx(8) and bottom - top == pytest.approx(4)
        for other_left, other_right, other_bottom, other_top in places[place + 1 :]:
            apart = other_left >= right or other_right <= left
            assert apart or other_top >= bottom or other_bottom <= top
    shown = numpy.moveaxis(clean[2].numpy(), 0, -1)
    drawn = axes.images[2].get_array()
    assert drawn is not None and numpy.array_equal(drawn, shown)
    texts = [text.get_text() for text in axes.texts]
    assert sum("read as read 3" in text for text in texts) == 1
    assert sum("within ±0.1" in text for text in texts) == 5
