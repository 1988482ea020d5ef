"""Fitted rates, what is said of the theorem, and the study on a tiny setting."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dathvd.benchmark.convergence.fit import over_seeds, rate, running_averages
from dathvd.benchmark.convergence.report import (
    check_steps_can_vary,
    draw_slope,
    plot,
    shorter_runs,
    to_table,
)
from dathvd.benchmark.convergence.study import Curve, base_config
from dathvd.benchmark.convergence.theory import horizon_rate, sentences
from dathvd.benchmark.convergence.variants import BASE, CODECS, STEPS, Study
from dathvd.config import load_config
from dathvd.errors import UserError
from dathvd.report.plots import new_figure
from tests.processes import DATHVD, run

TINY = [
    "model.width=2", "train.stationarity.num_samples=24",
    "train.stationarity.group_size=8", "train.stationarity.num_steps=1",
    "attack.num_steps=1", "evaluation.max_samples=8", "evaluation.attack.num_steps=1",
]  # fmt: skip


def study() -> Study:
    config = load_config("convergence", [])
    return Study(config, 1438, 64, ["none", "sign", "int8"], [], [], [], [16, 32])


def curve(family: str, value: str, falls: float, steps: int, floor: float) -> Curve:
    """Estimates whose running average is T^-falls, above a floor, of two seeds."""
    places = range(1, steps + 1)

    def values(scale: float) -> tuple[float, ...]:
        sums = [scale * t ** (1 - falls) for t in (0, *places)]
        return tuple(b - a + floor for a, b in zip(sums, sums[1:]))

    name = f"{family}-{value}"
    both = (values(1.0), values(1.2))
    return Curve(family, value, name, (), (0, 1), tuple(places), both, 0.1, (50.0,), 1)


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_a_power_law_is_found_exactly(power: float) -> None:
    steps = list(range(8, 65))
    found = rate(steps, [3.0 * step**-power for step in steps])
    assert found is not None and found.error is not None
    assert found.value == pytest.approx(power, abs=1e-9) and found.error < 1e-9


def test_its_error_is_that_of_least_squares() -> None:
    """Two points a step, e^a above and below: the slope's error in closed form."""
    steps, off = [1, 1, 10, 10], 0.2
    noise = [off, -off, off, -off]
    found = rate(steps, [t**-0.5 * math.exp(e) for t, e in zip(steps, noise)])
    spread = 4 * (math.log(10) / 2) ** 2
    expected = math.sqrt(4 * off**2 / 2 / spread)
    assert found is not None and found.value == pytest.approx(0.5)
    assert found.error == pytest.approx(expected)
    assert rate([1, 2, 3], [1.0, -1.0, 1.0]) is None


def test_averages_and_seeds() -> None:
    assert running_averages([3.0, 1.0, 5.0]) == [3.0, 2.0, 3.0]
    both = over_seeds([1.0, 3.0])
    assert both.value == 2.0 and both.error == pytest.approx(1.0)
    assert over_seeds([1.0]).error is None


def test_every_variant_takes_as_many_steps() -> None:
    config = load_config("convergence", [])
    found = Study(
        config, 1438, 400, ["none", "sign"], ["attack"], ["1", "5"], ["256"], [100]
    ).variants()
    assert [each.variant.name for each in found] == [
        "base", "steps-100", "codec-sign", "overlap-attack", "inner-steps-1",
        "batch-size-256",
    ]  # fmt: skip
    for each in found:
        own = load_config("convergence", each.variant.settings).train
        per_epoch = -(-1438 // own.batch_size)
        assert each.steps <= own.epochs * per_epoch < each.steps + per_epoch
    # a quarter of the steps at twice the rate
    shorter = load_config("convergence", found[1].variant.settings)
    assert shorter.optimizer.lr == pytest.approx(2 * config.optimizer.lr)


def test_shorter_runs_have_estimates_and_differ() -> None:
    assert shorter_runs(160, 10, [2, 4, 7, 8, 16]) == [80, 40, 20, 10]
    with pytest.raises(UserError, match="--horizons: 1/17 of 160 .* at most 16"):
        shorter_runs(160, 10, [2, 17])


def test_steps_that_an_attack_does_not_follow_are_no_variants() -> None:
    for name in ("pgd", "apgd"):
        check_steps_can_vary(load_config(None, [f"attack.name={name}"]).attack)
    for name in ("fgsm", "fgsm_rs", "n_fgsm", "free"):
        with pytest.raises(UserError, match=f"--inner-steps: attack.name {name}"):
            check_steps_can_vary(load_config(None, [f"attack.name={name}"]).attack)


def test_the_rate_over_horizons_and_the_verdicts(tmp_path: Path) -> None:
    curves = [
        curve(BASE, "", 0.5, 64, 0.0),
        curve(STEPS, "16", 0.5, 16, 0.0),
        curve(STEPS, "32", 0.5, 32, 0.0),
        curve(CODECS, "int8", 0.5, 64, 0.5),
        curve(CODECS, "sign", 0.5, 64, 1.0),
    ]
    found = horizon_rate(curves)
    assert found is not None and found.value == pytest.approx(0.5)
    assert curves[0].rate is not None
    assert curves[0].rate.value == pytest.approx(0.5)
    assert curves[4].late.value == pytest.approx(curves[0].late.value + 1.0)
    errors = {"none": 0.0, "int8": 0.1, "sign": 0.4}
    steps, codecs = sentences(curves, study(), errors)
    assert "the same within its error" in steps
    assert "3 of 3 pairs are told apart, all in that order" in codecs
    turned = {"none": 0.0, "int8": 0.4, "sign": 0.1}
    *_, codecs = sentences(curves, study(), turned)
    assert "they part: sign above int8" in codecs
    slow = [curves[0], *(curve(STEPS, str(t), 0.9, t, 0.0) for t in (16, 32))]
    assert "slower" in next(iter(sentences(slow, study(), errors)))
    assert to_table(curves, errors, "title").row_count == 5
    plot(curves, study(), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("falls", [0.5, -0.5])
def test_the_theorems_slope_lies_over_all_steps(falls: float) -> None:
    """Also where the curve rises, and is highest at its end."""
    axes = new_figure(4, 3).subplots()
    draw_slope(axes, curve(STEPS, "64", falls, 64, 0.0))
    (line,) = axes.get_lines()
    x, y = (np.log(np.asarray(values, float)) for values in line.get_data())
    assert np.exp(x) == pytest.approx([1, 64])
    assert y[1] - y[0] == pytest.approx(-0.5 * (x[1] - x[0]))


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(UserError, match="too few for a rate; take 160 or more"):
        base_config("convergence", [], 100, 10)


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_left(tmp_path: Path) -> None:
    command = [DATHVD, "benchmark-convergence", "--out", str(tmp_path)]
    command += ["--steps", "32", "--every", "2", "--seeds", "0", "--codecs", "sign"]
    command += ["--inner-steps", "", "--batch-sizes", "", "--overlap", ""]
    command += ["--horizons", "2"]
    command += [word for setting in TINY for word in ("--set", setting)]
    for _ in range(2):
        done = run(command, cwd=tmp_path, timeout=200)
        assert done.code == 0, done.output
    assert done.stdout.count("already finished") == 3
    found = json.loads((tmp_path / "convergence.json").read_text())
    assert [each["name"] for each in found["curves"]] == [
        "base", "steps-16", "codec-sign",
    ]  # fmt: skip
    base = found["curves"][0]
    assert base["steps"] == list(range(2, 33, 2)) and base["seeds"] == [0]
    assert found["codec_errors"]["none"] == 0 < found["codec_errors"]["sign"]
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert "the theorem says" in done.stdout
