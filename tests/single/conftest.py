"""What the tests of one process share."""

from __future__ import annotations

import os

import pytest
import torch

# foolbox imports GitPython, which refuses to be imported where there is no git
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny tensors are ten times slower where threads wait for a busy core."""
    torch.set_num_threads(1)
