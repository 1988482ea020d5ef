"""What each codec promises for itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dathvd.compression import (
    COMPRESSORS,
    Compression,
    Compressor,
    as_compressor,
    build_compressor,
)
from dathvd.config import load_config
from dathvd.errors import UserError
from tests.single.compression_inputs import decoded, encoded, vector

DRAWS = 2_500


def draws(codec: Compressor, values: Tensor) -> Tensor:
    """Decoded float64 ``[DRAWS, n]`` under as many seeds."""
    rows = torch.empty(DRAWS, len(values))
    for seed, row in enumerate(rows):
        codec.decode(encoded(codec, values, seed=seed)[0], row)
    return rows.double()


@pytest.mark.parametrize(
    "codec",
    [Compression.int8(), Compression.int4(), Compression.paper()],
    ids=lambda codec: codec.name,
)
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "mixed sign"])
def test_the_mean_over_seeds_is_the_input(codec: Compressor, kind: str) -> None:
    values = vector(kind, 700, 3)
    rows = draws(codec, values)
    error = rows.mean(0) - values.double()
    level = levels_of(codec, values)
    # one draw deviates by half a level at most, the mean by six such over the root of
    # the number of draws; then the bias that the codec states, and the input's rounding
    bound = level * (6 * 0.5 / math.sqrt(DRAWS) + 2.0**-15)
    assert (error.abs() <= bound + 2.0**-21 * values.double().abs()).all()
    # together the values say more: standardised errors have the square 1
    variance = rows.var(0)
    often = variance > 0.05 * level.square()
    scores = (error / (variance / DRAWS).sqrt())[often]
    assert scores.square().sum() < len(scores) + 6 * math.sqrt(2 * len(scores) + 1)


def levels_of(codec: Compressor, values: Tensor) -> Tensor:
    """The distance of two neighbouring levels, for each value."""
    if codec.name == "paper":
        norm = torch.linalg.vector_norm(values.double())
        return torch.full((len(values),), float(norm) / 127, dtype=torch.float64)
    steps = {"int8": 127, "int4": 7}[codec.name]
    largest = [block.abs().max().expand(len(block)) for block in values.split(512)]
    return torch.cat(largest).double() / steps


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_neighbouring_seeds_and_places_draw_independently(name: str) -> None:
    codec = COMPRESSORS[name]()
    values = torch.full((4096,), 0.3141)
    values[::512] = 1.0  # the scale of each block
    errors = torch.stack(
        [encoded(codec, values, seed=seed)[1].sign() for seed in range(64)]
    )
    keep = torch.arange(4096) % 512 != 0
    signs = errors[:, keep].double() - errors[:, keep].double().mean()
    norm = signs.square().mean()
    for other in (signs.roll(1, 0), signs.roll(1, 1), signs.roll(256, 1)):
        correlation = (signs * other).mean() / norm
        assert correlation.abs() < 6 / math.sqrt(signs.numel())


def test_quantised_values_are_within_a_level() -> None:
    for codec, levels in ((Compression.int8(), 127), (Compression.int4(), 7)):
        values = vector("heavy tail", 5120)
        error = decoded(codec, encoded(codec, values)[0], 5120) - values
        level = values.view(-1, 512).abs().amax(1, keepdim=True) / levels
        assert (error.view(-1, 512).abs() <= level * (1 + 1e-5)).all()
        extremes = values.view(-1, 512).abs().argmax(1, keepdim=True)
        exact = error.view(-1, 512).gather(1, extremes).abs()
        assert (exact <= 1e-6 * level * levels).all()


def test_sign_keeps_signs_and_mean_magnitudes() -> None:
    values = vector("normal", 1200)
    result = decoded(Compression.sign(), encoded(Compression.sign(), values)[0], 1200)
    assert torch.equal(result.signbit(), values.signbit())
    for start, end in ((0, 512), (512, 1024), (1024, 1200)):
        mean = values[start:end].double().abs().mean()
        torch.testing.assert_close(
            result[start:end].double().abs(),
            mean.expand(end - start),
            rtol=1e-6,
            atol=0,
        )


def test_the_scale_of_sign_has_the_least_error() -> None:
    values = vector("heavy tail", 512)
    result = decoded(Compression.sign(), encoded(Compression.sign(), values)[0], 512)
    ours = (result - values).double().square().sum()
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert (result * factor - values).double().square().sum() > ours
    share = 1 - values.double().abs().sum() ** 2 / (
        512 * values.double().square().sum()
    )
    torch.testing.assert_close(ours / values.double().square().sum(), share)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["normal", "heavy tail", "ties"])
def test_topk_takes_the_largest_of_each_block(density: float, kind: str) -> None:
    codec = Compression.topk(density=density)
    values = vector(kind, 2 * 16384 + 700)
    wire, lost = encoded(codec, values)
    result = decoded(codec, wire, len(values))
    for block, left in zip(result.split(16384), lost.split(16384)):
        sent = block != 0
        assert torch.equal(left == 0, sent | (left == 0))  # what is sent leaves no rest
        if kind != "ties":
            assert sent.sum() == codec.kept(len(block))
        if sent.any() and not sent.all():
            assert block[sent].abs().min() >= left[~sent].abs().max()
    assert torch.equal(torch.where(result != 0, values, 0.0), result)


def test_topk_takes_equal_magnitudes_from_the_front() -> None:
    codec = Compression.topk(density=0.01)
    result = decoded(codec, encoded(codec, torch.full((16384,), -2.0))[0], 16384)
    assert torch.equal(result.nonzero().view(-1), torch.arange(164))


def test_error_feedback_delivers_what_sign_and_topk_leave_out() -> None:
    gradient = vector("heavy tail", 4096).clamp(-3, 3)
    for codec, steps, rest in (
        (Compression.sign(), 400, 0.05),
        (Compression.topk(), 800, 0.2),
    ):
        residual, delivered = None, torch.zeros(4096)
        for _ in range(steps):
            wire, residual = encoded(codec, gradient, residual)
            delivered += decoded(codec, wire, 4096)
        error = (delivered / steps - gradient).norm() / gradient.norm()
        once = decoded(codec, encoded(codec, gradient)[0], 4096) - gradient
        assert error < rest and error < 0.3 * once.norm() / gradient.norm()


def test_the_error_of_the_paper_grows_with_the_tensor() -> None:
    def energy(codec: Compressor, size: int) -> float:
        values = vector("normal", size)
        lost = encoded(codec, values, seed=1)[1]
        return float(lost.square().sum() / values.square().sum())

    small, large = (energy(Compression.paper(), size) for size in (4_000, 1_000_000))
    assert small < 0.1 and large > 1
    assert energy(Compression.int8(), 1_000_000) < 2e-4


def test_casts_round_to_nearest() -> None:
    values = vector("normal", 1001)
    for codec, dtype in (
        (Compression.none(), torch.float32),
        (Compression.fp16(), torch.float16),
        (Compression.bf16(), torch.bfloat16),
    ):
        expected = values.to(dtype).float()
        assert torch.equal(decoded(codec, encoded(codec, values)[0], 1001), expected)


def matrices(shapes: list[tuple[int, int]], rank: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(rows, rank, generator=generator)
        @ torch.randn(rank, cols, generator=generator)
        for rows, cols in shapes
    ]
    return torch.cat([part.view(-1) for part in parts])


SHAPES = [(20, 30), (64, 9), (5, 200)]


def test_powersgd_is_exact_on_matrices_of_its_rank() -> None:
    for rank in (1, 2):
        flat = matrices(SHAPES, rank)
        factors = Compression.powersgd(rank=2).factors(SHAPES)
        factors.back_project(flat, factors.project(flat))
        out, lost = torch.empty_like(flat), torch.empty_like(flat)
        factors.residual(flat, lost)
        factors.reconstruct(out)
        torch.testing.assert_close(out, flat, rtol=0, atol=1e-4)
        torch.testing.assert_close(lost, flat - out, rtol=0, atol=1e-5)


def test_powersgd_finds_the_best_factors_by_its_warm_start() -> None:
    flat = matrices(SHAPES, 5, seed=1)
    factors = Compression.powersgd(rank=2).factors(SHAPES)
    out = torch.empty_like(flat)
    for _ in range(60):
        factors.back_project(flat, factors.project(flat))
        factors.reconstruct(out)
    sizes = [rows * cols for rows, cols in SHAPES]
    for ours, whole, shape in zip(out.split(sizes), flat.split(sizes), SHAPES):
        singular = torch.linalg.svdvals(whole.view(shape).double())
        best = singular[2:].square().sum().sqrt()
        assert (ours - whole).double().norm() <= best * 1.01 + 1e-4


def test_powersgd_over_workers_loses_nothing() -> None:
    workers = [matrices(SHAPES, 6, seed) for seed in range(3)]
    states = [Compression.powersgd(rank=2).factors(SHAPES, seed=4) for _ in workers]
    left = torch.stack([s.project(m) for s, m in zip(states, workers)]).mean(0)
    rights = [s.back_project(m, left.clone()) for s, m in zip(states, workers)]
    lost = [torch.empty_like(m) for m in workers]
    for state, matrix, rest in zip(states, workers, lost):
        state.residual(matrix, rest)
    mean = torch.stack(rights).mean(0)
    out = [torch.empty_like(m) for m in workers]
    for state, right, result in zip(states, rights, out):
        right.copy_(mean)
        state.reconstruct(result)
    assert torch.equal(out[0], out[1]) and torch.equal(out[0], out[2])
    delivered = torch.stack([m - rest for m, rest in zip(workers, lost)]).mean(0)
    torch.testing.assert_close(out[0], delivered, rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_powersgd_recovers_after_an_empty_or_bad_step(bad: float) -> None:
    factors = Compression.powersgd(rank=2).factors(SHAPES)
    flat, out = matrices(SHAPES, 2), torch.empty(factors.num_values)
    for step in (flat, torch.full_like(flat, bad), flat):
        factors.back_project(step, factors.project(step))
        factors.reconstruct(out)
    torch.testing.assert_close(out, flat, rtol=0, atol=1e-4)


def test_powersgd_restores_its_start() -> None:
    flat, shapes = matrices(SHAPES, 5), SHAPES
    first, second = (Compression.powersgd().factors(shapes, seed) for seed in (1, 2))
    first.back_project(flat, first.project(flat))
    first.reconstruct(torch.empty_like(flat))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.project(flat), second.project(flat))
    with pytest.raises(UserError, match="this model and rank need"):
        second.load_state_dict({"start": torch.zeros(3, 2)})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Compression.topk(density=0),
        lambda: Compression.topk(density=1.5),
        lambda: Compression.topk(density=float("nan")),
        lambda: Compression.powersgd(rank=0),
        lambda: Compression.powersgd(rank=8).factors([(4, 100)]),
        lambda: as_compressor(object()),  # type: ignore[arg-type]
        lambda: load_config(None, ["compression.name=sing"]),
        lambda: load_config(None, ["compression.density=0"]),
        lambda: load_config(None, ["compression.rank=0"]),
    ],
)
def test_bad_options_are_refused_in_one_line(make: object) -> None:
    with pytest.raises(UserError, match="compression") as error:
        make()  # type: ignore[operator]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_config_builds_its_codec(name: str) -> None:
    options = [f"compression.name={name}", "compression.density=0.02"]
    options += ["compression.rank=3", "compression.error_feedback=true"]
    codec = build_compressor(load_config(None, options).compression)
    assert type(codec) is COMPRESSORS[name] is getattr(Compression, name)
    assert codec.error_feedback and codec.name == name
    assert getattr(codec, "density", 0.02) == 0.02 and getattr(codec, "rank", 3) == 3
    default = build_compressor(load_config(None, options[:1]).compression)
    assert default.error_feedback == COMPRESSORS[name].error_feedback
    assert as_compressor(COMPRESSORS[name]).name == as_compressor(codec).name


def test_three_methods_make_a_codec() -> None:
    class Ternary(Compressor):
        name = "ternary"
        exchanges = ("allgather",)

        def payload_bytes(self, num_values: int) -> int:
            return 4 * -(-num_values // 4)

        def pack(
            self, values: Tensor, wire: Tensor, seed: int, offset: int = 0
        ) -> None:
            wire.zero_()
            wire[: len(values)] = values.sign().to(torch.int8).view(torch.uint8)

        def decode(self, wire: Tensor, out: Tensor) -> None:
            out.copy_(wire[: len(out)].view(torch.int8))

    values, past = vector("normal", 77), vector("normal", 77, 1)
    wire, lost = encoded(Ternary(), values, past)
    assert torch.equal(decoded(Ternary(), wire, 77), (values + past).sign())
    assert torch.equal(lost, (values + past) - (values + past).sign())
