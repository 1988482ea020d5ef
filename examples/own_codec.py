"""A codec of your own: three values a number, -1, 0 or 1 times a scale a block.

::

    horovodrun -np 2 python examples/own_codec.py

A codec defines the size of its payload, how it is packed and how it is decoded. Error
feedback, buckets, exchanges and the overlap with backward are there without a line.
"""

from __future__ import annotations

from typing import ClassVar

import horovod.torch as hvd
import torch
from torch import Tensor, nn

import dathvd
from dathvd.compression import Compressor, Exchange

BLOCK = 64
BYTES = 4 + BLOCK // 4
"""A float32 scale, then 2 bits a value."""


class Ternary(Compressor):
    """Values beyond half of their block's largest magnitude become it, others zero.

    Wen et al., TernGrad (NeurIPS 2017), made deterministic and taken by blocks; what is
    lost is kept by error feedback. 20 bytes for 64 values: a twelfth of float32's.
    """

    name: ClassVar[str] = "ternary"
    exchanges: ClassVar[tuple[Exchange, ...]] = ("two-way", "allgather")
    error_feedback = True
    block = BLOCK

    def payload_bytes(self, num_values: int) -> int:
        """Whole blocks: a partly filled last one is sent like the others."""
        return -(-num_values // BLOCK) * BYTES

    def pack(self, values: Tensor, wire: Tensor, seed: int, offset: int = 0) -> None:
        """Write scale and codes of every block; seed and offset are for random ones."""
        blocks = nn.functional.pad(values, (0, -values.numel() % BLOCK)).view(-1, BLOCK)
        scale = blocks.abs().amax(dim=1, keepdim=True)  # NaN and infinity go along
        codes = (blocks.abs() > scale / 2).mul(blocks.sign()).add(1).to(torch.uint8)
        places = torch.tensor([1, 4, 16, 64], dtype=torch.uint8, device=values.device)
        packed = codes.view(-1, BLOCK // 4, 4).mul(places).sum(-1, dtype=torch.uint8)
        rows = wire.view(-1, BYTES)
        rows[:, :4] = scale.view(torch.uint8)
        rows[:, 4:] = packed

    def decode(self, wire: Tensor, out: Tensor) -> None:
        """Read them back."""
        rows = wire.view(-1, BYTES)
        scale = rows[:, :4].contiguous().view(torch.float32)
        shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=wire.device)
        codes = rows[:, 4:, None].bitwise_right_shift(shifts).bitwise_and(3)
        values = codes.view(-1, BLOCK).float().sub(1).mul(scale)
        out.copy_(values.view(-1)[: out.numel()])


def main() -> None:
    """Fit a matrix over all workers, each with data of its own, and tell how near."""
    hvd.init()
    torch.manual_seed(0)
    target = torch.randn(64, 64)
    model = nn.Linear(64, 64, bias=False)
    optimizer = dathvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=0.2),
        named_parameters=model.named_parameters(),
        compression=Ternary(),
    )
    own = torch.Generator().manual_seed(1 + hvd.rank())
    for _ in range(300):
        inputs = torch.randn(256, 64, generator=own)
        loss = (model(inputs) - inputs @ target.T).square().sum(dim=1).mean() / 4
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    distance = (model.weight - target).norm() / target.norm()
    if hvd.rank() == 0:
        print(optimizer.exchanger.describe())
        print(f"relative distance from the target {distance:.4f}")


if __name__ == "__main__":
    main()
