"""The Triton kernels give the CPU's bits.

Where there is no CUDA device they run in Triton's interpreter, in a process of their
own (it must be chosen before Triton is imported), and are compiled for two GPUs.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from dathvd.compression import Compression
from dathvd.compression.base import inverse
from dathvd.compression.fused import FusedCompressor
from tests.single.compression_inputs import decoded, encoded, vector

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CODECS = [
    Compression.sign(),
    Compression.int8(),
    Compression.int4(),
    Compression.topk(),
    Compression.topk(density=0.3),
]
KINDS = ("normal", "zero", "denormal", "tiny", "huge", "heavy tail", "not finite")
CASES = [("normal", 1), ("normal", 8705), ("ties", 33_001)]
CASES += [(kind, 513) for kind in KINDS]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
runs = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="no CUDA device; test_in_the_interpreter runs it",
)
DEVICE = "cpu" if INTERPRETED else "cuda"


def bits(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu()
    return torch.where(tensor.isnan(), torch.nan, tensor).view(torch.int32)


def inputs(kind: str, size: int) -> Tensor:
    if kind != "not finite":
        return vector(kind, size)
    values = vector("normal", size)
    values[size // 3] = torch.inf
    values[-1] = torch.nan
    return values


@runs
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("kind,size", CASES)
def test_same_bits_as_on_a_cpu(codec: FusedCompressor, kind: str, size: int) -> None:
    from dathvd.compression import triton_calls

    values, past = inputs(kind, size), vector("normal", size, 5)
    residual = past if size > 1 else None
    place = 512 * 70_000
    wire, lost = encoded(codec, values, residual, 12, 0.3, place)
    other, _ = encoded(codec, -values, residual, 13)
    wires = torch.stack([wire, other, wire])
    mean = torch.empty(size)
    codec.decode_mean(wires, mean)

    gpu_wire = torch.zeros_like(wire, device=DEVICE)
    gpu_lost = values.to(DEVICE, copy=True)
    moved = None if residual is None else residual.to(DEVICE)
    options = codec.encode_options(size, 12, place)
    triton_calls.encode(
        codec.kernel, gpu_lost, moved, gpu_wire, gpu_lost, 0.3, *options
    )
    assert torch.equal(gpu_wire.cpu(), wire)
    assert torch.equal(bits(gpu_lost), bits(lost))
    out = torch.empty(size, device=DEVICE)
    sizes = codec.decode_options(size)
    triton_calls.decode_mean(codec.kernel, gpu_wire[None], out, 1.0, *sizes)
    assert torch.equal(bits(out), bits(decoded(codec, wire, size)))
    moved_wires = wires.to(DEVICE)
    triton_calls.decode_mean(codec.kernel, moved_wires, out, inverse(3), *sizes)
    assert torch.equal(bits(out), bits(mean))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_cuda_tensors_take_the_kernels(codec: FusedCompressor) -> None:
    values = vector("normal", 70_001)
    payload, context = codec.compress(values.cuda(), 7)
    assert torch.equal(payload[0].cpu(), codec.compress(values, 7)[0][0])
    ours = codec.decompress(payload, context)
    assert torch.equal(ours.cpu(), codec.decompress((payload[0].cpu(),), context))


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="runs directly")
def test_in_the_interpreter() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout
    assert f"{len(CODECS) * len(CASES)} passed" in run.stdout


POINTERS = {
    "values": "*fp32",
    "residual": "*fp32",
    "wire": "*i32",
    "wires": "*i32",
    "codes": "*u8",
    "scales": "*fp32",
    "lost": "*fp32",
    "out": "*fp32",
    "factor": "fp32",
    "inverse": "fp32",
    "inverse_last": "fp32",
    "wire_values": "*fp32",
    "wire_places": "*i16",
}
CONSTANTS: dict[str, dict[str, Any]] = {
    "sign_encode": {
        "has_residual": True,
        "has_lost": True,
        "tile": 16,
        "unroll": 4,
    },
    "sign_decode": {"mean": True},
    "quantize_encode": {
        "has_residual": True,
        "has_lost": True,
        "width": 4,
        "levels": 7,
        "row_bytes": 260,
    },
    "quantize_decode": {"mean": True, "width": 4, "row_bytes": 260},
    "topk_encode": {"has_residual": True, "has_lost": True},
    "topk_decode": {"mean": True, "most": 256},
}


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("name", CONSTANTS)
def test_compiles_for_a_gpu_without_fused_products(name: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dathvd.compression import triton_kernels, triton_topk

    module = triton_topk if name.startswith("topk") else triton_kernels
    function = getattr(module, name)
    constants = CONSTANTS[name]
    signature = {
        argument: (
            "constexpr" if argument in constants else POINTERS.get(argument, "i32")
        )
        for argument in function.arg_names
    }
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": False},
    )
    assert "fma" not in compiled.asm["ptx"] and ".ftz" not in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 0
