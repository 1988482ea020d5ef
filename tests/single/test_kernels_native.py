"""The compiled kernels and the torch operations give the same bits."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dathvd.compression import Compression, Compressor, kernels
from tests.single.compression_inputs import KINDS, SIZES, decoded, encoded, vector

FUSED = {
    "sign": Compression.sign(),
    "int8": Compression.int8(),
    "int4": Compression.int4(),
    "topk": Compression.topk(),
    "topk-tenth": Compression.topk(density=0.1),
    "topk-all": Compression.topk(density=1.0),
}
ALL = pytest.mark.parametrize("codec", FUSED.values(), ids=FUSED)
TARGETS = pytest.mark.parametrize("target", kernels.TARGETS)
built = pytest.mark.skipif(
    not kernels.available(), reason="the kernels were not built (no C++ compiler)"
)


def bits(tensor: Tensor) -> Tensor:
    """The bits of floats, with one pattern for all NaNs."""
    return torch.where(tensor.isnan(), torch.nan, tensor).view(torch.int32)


def assert_same_bits(codec: Compressor, values: Tensor, past: Tensor | None) -> None:
    size = len(values)
    results = []
    for use_kernels in (True, False):
        if not use_kernels:
            with kernels.without_kernels():
                results.append(all_of(codec, values, past, size))
        else:
            results.append(all_of(codec, values, past, size))
    (wire, *floats), (torch_wire, *torch_floats) = results
    assert torch.equal(wire, torch_wire)
    for ours, theirs in zip(floats, torch_floats):
        assert torch.equal(bits(ours), bits(theirs))


def all_of(
    codec: Compressor, values: Tensor, past: Tensor | None, size: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    wire, lost = encoded(codec, values, past, seed=11, scale=0.3, offset=1 << 30)
    other, _ = encoded(codec, values * -2.0, past, seed=12)
    mean = torch.empty(size)
    codec.decode_mean(torch.stack([wire, other, wire]), mean)
    return wire, lost, decoded(codec, wire, size), mean


@built
@ALL
@TARGETS
@settings(max_examples=12, deadline=None, derandomize=True)
@given(size=st.sampled_from(SIZES), kind=st.sampled_from(KINDS), past=st.booleans())
def test_same_bits_for_every_input(
    codec: Compressor, target: str, size: int, kind: str, past: bool
) -> None:
    residual = vector("normal", size, 5) if past else None
    with kernels.at_most(target):
        assert_same_bits(codec, vector(kind, size), residual)


@built
@ALL
@TARGETS
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3.4e38])
def test_same_bits_for_what_is_not_finite(
    codec: Compressor, target: str, bad: float
) -> None:
    for size in (1, 9001, 16384, 20000):
        values = vector("normal", size)
        values[size // 3] = bad
        values[size // 2] = -bad
        with kernels.at_most(target):
            assert_same_bits(codec, values, vector("normal", size, 5))


@pytest.mark.slow
@built
@ALL
@TARGETS
@pytest.mark.parametrize("start", [0, 1], ids=["aligned", "unaligned"])
def test_long_outputs_have_the_bits_of_short_ones(
    codec: Compressor, target: str, start: int
) -> None:
    """Those of 2**20 values and more are written past the caches, where aligned."""
    size, piece = (1 << 20) + 777, 1 << 18
    wires = torch.stack([encoded(codec, vector("normal", size, s))[0] for s in (1, 2)])
    whole = torch.full((size + start + 16,), torch.nan)
    pieces = torch.empty(size)
    with kernels.at_most(target):
        codec.decode_mean(wires, whole[start : start + size])
        for low in range(0, size, piece):
            high = min(size, low + piece)
            cut = slice(codec.payload_bytes(low), codec.payload_bytes(high))
            codec.decode_mean(wires[:, cut].contiguous(), pieces[low:high])
    assert torch.equal(whole[start : start + size], pieces)
    assert whole[start + size :].isnan().all()


@built
def test_the_target_is_lowered_only_inside_the_block() -> None:
    best = kernels.target()
    with kernels.at_most("plain"):
        assert kernels.target() == "plain"
    assert kernels.target() == best
    with kernels.without_kernels():
        assert kernels.target() is None


@built
def test_calls_from_several_threads_do_not_disturb_each_other() -> None:
    codec, values = Compression.int8(), vector("normal", 300_000)
    expected = [encoded(codec, values, seed=seed)[0] for seed in range(4)]
    results: dict[int, Tensor] = {}

    def work(seed: int) -> None:
        for _ in range(5):
            results[seed] = encoded(codec, values, seed=seed)[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[seed], expected[seed]) for seed in range(4))


@built
def test_a_payload_from_elsewhere_cannot_write_outside_its_block() -> None:
    codec, size = Compression.topk(), 5000
    wire = torch.full((codec.payload_bytes(size),), 0xFF, dtype=torch.uint8)
    around = torch.zeros(size + 2048)
    codec.decode(wire, around[1024:-1024])
    assert not around[:1024].any() and not around[-1024:].any()


@ALL
@pytest.mark.parametrize("native", [True, False])
def test_nothing_is_a_payload_too(codec: Compressor, native: bool) -> None:
    with contextlib.nullcontext() if native else kernels.without_kernels():
        wire, lost = encoded(codec, torch.empty(0))
        assert len(wire) == len(lost) == len(decoded(codec, wire, 0)) == 0


@ALL
@pytest.mark.parametrize("native", [True, False])
def test_sizes_that_do_not_fit_are_refused(codec: Compressor, native: bool) -> None:
    with contextlib.nullcontext() if native else kernels.without_kernels():
        refuse_sizes(codec)


def refuse_sizes(codec: Compressor) -> None:
    values, short = torch.zeros(600), torch.zeros(599)
    wire = torch.zeros(codec.payload_bytes(600), dtype=torch.uint8)
    for arguments in (
        (values, None, wire[:-4], None),
        (values, short, wire, None),
        (values, None, wire, short),
    ):
        with pytest.raises(ValueError, match="600 values"):
            codec.encode(*arguments)
    with pytest.raises(ValueError, match="takes"):
        codec.decode(wire[:-4], values)
    with pytest.raises(ValueError, match="takes"):
        codec.decode_mean(torch.stack([wire[4:], wire[4:]]), values)


def test_without_a_compiler_the_package_builds_and_works(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    package = tmp_path / "dathvd"
    package.symlink_to(root / "dathvd")
    for name in ("setup.py", "setup.cfg", "pyproject.toml"):
        (tmp_path / name).symlink_to(root / name)
    build = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", "lib"],
        cwd=tmp_path,
        env={
            "PATH": "/nonexistent",
            "CC": "/nonexistent/cc",
            "CXX": "/nonexistent/c++",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert build.returncode == 0, build.stderr
    assert not list(tmp_path.glob("lib/**/*.so"))
