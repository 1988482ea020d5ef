"""What the device reaches at its two plainest jobs: copying and multiplying."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from dathvd.benchmark.gpu.clock import seconds


@dataclass(frozen=True)
class Rates:
    """Ceilings that other figures are compared with."""

    bf16_flops: float
    """Floating-point operations a second of a bfloat16 matrix product."""
    tf32_flops: float
    """The same of a float32 product whose factors are rounded to TF32."""
    copy_bytes: float
    """Bytes a second of a device copy, read and written ones counted."""

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


def measure_rates(device: torch.device, size: int = 8192) -> Rates:
    """Median rates of products of ``size`` and of a copy of 16 * size^2 bytes."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    bf16 = _product_flops(device, size, torch.bfloat16)
    tf32 = _product_flops(device, size, torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.randn(4 * size * size, device=device)
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source), device, 3) for _ in range(6)][1:]
    return Rates(bf16, tf32, 8 * source.numel() / median(times))


def _product_flops(device: torch.device, size: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    times = [
        seconds(lambda: torch.mm(left, right, out=out), device, 5) for _ in range(6)
    ]
    return 2 * size**3 / median(times[1:])
