"""What the tests of one process share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are ten times slower where threads wait for a busy core."""
    torch.set_num_threads(1)
