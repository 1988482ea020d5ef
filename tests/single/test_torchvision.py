"""torchvision works beside any torch, and is not imported unless it is needed."""

import subprocess
import sys

import pytest
import torch


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_through_the_shim_computes() -> None:
    from dathvd.torchvision_shim import torchvision

    network = torchvision.models.resnet18(weights=None).eval()
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 1000)
    crop = torchvision.transforms.CenterCrop(2)(torch.rand(1, 3, 4, 4))
    assert crop.shape == (1, 3, 2, 2)


@pytest.mark.slow
def test_the_shim_is_active_only_where_torchvision_fails_without_it() -> None:
    plain = python(
        "try:\n    import torchvision\nexcept RuntimeError:\n    print('fails')\n"
        "else:\n    print('works')"
    )
    shimmed = python(
        "from dathvd.torchvision_shim import declarations, torchvision\n"
        "print('works' if declarations is None else 'fails')"
    )
    assert shimmed == plain


def test_other_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import dathvd.torchvision_shim as shim

    def fail(name: str) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        shim._import()


@pytest.mark.slow
def test_nothing_imports_torchvision_before_it_is_needed() -> None:
    found = python(
        "import sys, dathvd.models, dathvd.data, dathvd.optim\n"
        "from dathvd.config import ModelConfig\n"
        "dathvd.models.build_model(ModelConfig(), (1, 8, 8), 10)\n"
        "print([name for name in ('torchvision', 'sklearn', 'scipy', 'horovod')"
        " if name in sys.modules])"
    )
    assert found == "[]"
