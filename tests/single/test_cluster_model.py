"""The cluster model against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dathvd.benchmark.speedup.cluster_model import (
    ClusterModel,
    bytes_factor,
    held_out_errors,
    key_of,
    non_negative_least_squares,
    predictions,
    rounds,
    traffic,
)
from dathvd.benchmark.speedup.rows import SweepRow

VALUES = 11_200_000
LATENCY = 2e-4
SECONDS_PER_BYTE = {
    "allreduce": 8 / 200e6,
    "two-way": 8 / 180e6,
    "allgather": 8 / 190e6,
}
COMPUTE, ATTACK, CODEC = 0.6, 0.4, 0.05
# payload bytes of each codec, and the collectives that carry them
CODECS = {
    "none": ("allreduce", 4.0 * VALUES),
    "fp16": ("allreduce", 2.0 * VALUES),
    "int8": ("two-way", 1.0 * VALUES),
    "sign": ("two-way", VALUES / 8),
    "topk": ("allgather", 8 * 0.01 * VALUES),
}


def sent_bytes(codec: str, workers: int) -> dict[str, tuple[int, float]]:
    """Calls and bytes of one worker, as the table of the design has them."""
    exchange, payload = CODECS[codec]
    share = (workers - 1) / workers
    if exchange == "allreduce":
        return {"allreduce": (2, 2 * payload * share)}
    if exchange == "two-way":
        return {"alltoall": (2, payload * share), "allgather": (2, payload * share)}
    return {"allgather": (2, payload * (workers - 1))}


def communication(codec: str, workers: int) -> float:
    """The closed form that the model has to find."""
    exchange = CODECS[codec][0]
    calls = 2 * (workers - 1) * (1 if exchange == "allgather" else 2)
    sent = sum(size for _, size in sent_bytes(codec, workers).values())
    return LATENCY * calls + SECONDS_PER_BYTE[exchange] * sent


def row(
    codec: str, workers: int, overlap: str = "none", crowding: float = 1.0
) -> SweepRow:
    """A noiseless measurement."""
    hidden = ATTACK * crowding if overlap == "attack" else 0.0
    exposed = max(0.0, communication(codec, workers) - hidden) if workers > 1 else 0.0
    codec_seconds = CODEC * crowding if workers > 1 else 0.0
    return SweepRow(
        num_workers=workers,
        codec=codec,
        exchange=CODECS[codec][0],
        overlap=overlap,
        batch_size_per_worker=2,
        step_seconds=COMPUTE * crowding + codec_seconds + exposed,
        step_spread=0.0,
        compute_seconds=COMPUTE * crowding,
        data_seconds=0.0,
        attack_seconds=ATTACK * crowding,
        update_seconds=(COMPUTE - ATTACK) * crowding + codec_seconds,
        exposed_seconds=exposed,
        bytes_sent=sum(size for _, size in sent_bytes(codec, workers).values()),
        traffic=sent_bytes(codec, workers) if workers > 1 else {},
        num_steps=10,
        hosts=workers,
        oversubscribed=False,
        device="cpu",
    )


def rows(*sizes: int) -> list[SweepRow]:
    return [
        row(codec, size, overlap)
        for size in sizes
        for codec in CODECS
        for overlap in ("none", "attack")
    ]


def test_the_fit_finds_the_link_that_made_the_points() -> None:
    model = ClusterModel.fit(rows(1, 2, 4))
    assert model.link.latency == pytest.approx(LATENCY, rel=1e-6)
    assert model.link.seconds_per_byte == pytest.approx(SECONDS_PER_BYTE, rel=1e-6)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("overlap", ["none", "attack"])
@pytest.mark.parametrize("size", [2, 8, 1024])
def test_the_prediction_is_the_closed_form(codec: str, overlap: str, size: int) -> None:
    model = ClusterModel.fit(rows(1, 2, 4))
    predicted = model.predict(codec, CODECS[codec][0], overlap, size)
    assert predicted == pytest.approx(row(codec, size, overlap).step_seconds, rel=1e-6)


def test_points_held_out_are_those_with_the_most_workers() -> None:
    held = held_out_errors(rows(1, 2, 4, 8))
    assert {item.row.num_workers for item in held} == {8}
    assert len(held) == 2 * len(CODECS)
    assert max(abs(item.error) for item in held) < 1e-6


def test_a_held_out_point_that_is_slower_has_a_negative_error() -> None:
    points = rows(1, 2, 4)
    changed = [
        replace(p, step_seconds=1.25 * p.step_seconds) if p.num_workers == 4 else p
        for p in points
    ]
    for item in held_out_errors(changed):
        assert item.error == pytest.approx(-0.2)


def test_nothing_to_hold_out_with_a_single_size() -> None:
    assert held_out_errors(rows(1, 2)) == []
    with pytest.raises(ValueError, match="two or more workers"):
        ClusterModel.fit(rows(1))


def test_workers_that_share_a_machine_slow_one_another() -> None:
    # two cores: four workers compute half as fast, and links are as they were
    model = ClusterModel.fit(rows(1, 2), shared_workers=2)
    link_is_known = ClusterModel.fit(rows(1, 2, 4)).link
    model = replace(model, link=link_is_known)
    for codec in CODECS:
        for overlap in ("none", "attack"):
            expected = row(codec, 4, overlap, crowding=2.0).step_seconds
            found = model.predict(codec, CODECS[codec][0], overlap, 4)
            assert found == pytest.approx(expected, rel=1e-6)


def test_two_way_bytes_are_bounded_and_gathered_ones_are_not() -> None:
    sign, topk = row("sign", 2), row("topk", 2)
    assert traffic(sign, 1024)[1] == pytest.approx(2 * VALUES / 8 * 1023 / 1024)
    assert traffic(topk, 1024)[1] == pytest.approx(8 * 0.01 * VALUES * 1023)


def test_efficiency_falls_with_workers_and_overlap_never_harms() -> None:
    model = ClusterModel.fit(rows(1, 2, 4))
    found = {
        (p.codec, p.overlap, p.num_workers): p.efficiency
        for p in predictions(model, [2, 16, 128, 1024])
    }
    for codec in CODECS:
        curve = [found[codec, "none", size] for size in (2, 16, 128, 1024)]
        assert curve == sorted(curve, reverse=True)
        assert all(
            found[codec, "attack", n] >= found[codec, "none", n] for n in (2, 1024)
        )
        assert 0 < curve[-1] < 1


def test_keys_of_predictions_are_those_of_measurements() -> None:
    model = ClusterModel.fit(rows(1, 2))
    measured = {key_of(point) for point in rows(2)}
    predicted = {(p.codec, p.exchange, p.overlap) for p in predictions(model, [64])}
    assert measured == predicted


@given(st.integers(2, 4096))
def test_rounds_and_factors_of_ring_collectives(size: int) -> None:
    assert rounds("allreduce", size) == 2 * rounds("allgather", size) == 2 * (size - 1)
    assert bytes_factor("alltoall", "two-way", size) == pytest.approx(1 - 1 / size)
    assert bytes_factor("allgather", "allgather", size) == size - 1


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_non_negative_least_squares_meets_its_optimality_conditions(seed: int) -> None:
    draw = np.random.default_rng(seed)
    design = draw.normal(size=(8, 4)) * 10.0 ** draw.integers(-6, 6, size=4)
    target = draw.normal(size=8)
    found = non_negative_least_squares(design, target)
    # Karush-Kuhn-Tucker: x >= 0, gradient <= 0 where x = 0, and = 0 elsewhere
    scale = np.linalg.norm(design, axis=0)
    gradient = design.T @ (target - design @ found) / scale
    assert (found >= 0).all()
    assert (gradient <= 1e-8).all()
    assert np.abs(gradient[found > 0]).max(initial=0.0) < 1e-8
