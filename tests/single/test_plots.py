"""Pictures of a run: drawn from rows of metrics, and only where there is something."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
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
