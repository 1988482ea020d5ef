"""Tests that need a CUDA device; ``make gpu-test`` runs them, also without Horovod."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dathvd.config import TrainConfig
from dathvd.devices import set_up_device

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and skip them where there is no device."""
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Each test starts with exact float32, and leaves torch's settings as they were."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    set_up_device(torch.device("cuda"), TrainConfig(tf32=False, deterministic=True))
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before
