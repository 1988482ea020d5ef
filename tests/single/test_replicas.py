"""How workers whose weights have come apart are noticed and named."""

from __future__ import annotations

import pytest
import torch

from dathvd.distributed.replicas import who_differs
from dathvd.hashing import checksum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_one_bit_changes_the_checksum(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    whole = torch.randn(41, dtype=dtype)
    tensors = [whole[1:8], torch.randn(3, 5, dtype=dtype).T, whole[8:], whole[:0]]
    before = int(checksum(tensors))
    assert int(checksum([tensor.clone() for tensor in tensors])) == before
    assert int(checksum(reversed(tensors))) != before
    for tensor in tensors:
        values = tensor.reshape(-1)
        for place in range(len(values)):
            changed = values.clone()
            changed.view(torch.uint8)[place * dtype.itemsize] ^= 1
            shaped = changed.reshape(tensor.shape)
            others = [shaped if each is tensor else each for each in tensors]
            assert int(checksum(others)) != before
    assert int(checksum([])) == 0


@pytest.mark.parametrize(
    ("sums", "words"),
    [
        ([5, 5, 7], "rank 2 on c does not hold the weights of the 2 other workers"),
        ([7, 5, 5, 5, 8], "ranks 0 on a, 4 on e do not hold the weights of the 3"),
        ([1, 2], "workers hold different weights: ranks 0 on a, 1 on b"),
        ([1, 1, 2, 2], "different weights: ranks 0 on a, 1 on b, 2 on c, 3 on d"),
        ([1, 2, 3, 4, 5, 6], "0 on a, 1 on b, 2 on c, 3 on d, 2 more"),
    ],
)
def test_the_minority_is_named(sums: list[int], words: str) -> None:
    assert words in who_differs(sums, "abcdef")
