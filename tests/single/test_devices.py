"""How torch computes, as configured: what is refused, and what bf16 leaves as it is."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from dathvd.config import Config, TrainConfig
from dathvd.devices import check_precision, set_up_device, to_device
from dathvd.errors import UserError
from dathvd.training.passes import TrainingPass, lay_out, training_pass

CPU = torch.device("cpu")
BF16 = TrainConfig(precision="bf16")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 4)
    )


@pytest.mark.parametrize("has_bf16", [False, True])
@pytest.mark.parametrize("section", ["train", "attack"])
def test_bf16_is_refused_where_it_is_emulated(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, section: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    half = Config.model_validate({section: {"precision": "bf16"}})
    check_precision(CPU, Config())
    check_precision(torch.device("cuda"), half)
    if has_bf16:
        check_precision(CPU, half)
    else:
        with pytest.raises(UserError, match=rf"{section}\.precision: this CPU has no"):
            check_precision(CPU, half)
        forced = half.model_dump() | {"train": half.train.model_dump()}
        forced["train"]["emulate_bf16"] = True
        check_precision(CPU, Config.model_validate(forced))


def test_settings_of_gpus_leave_a_cpus_alone() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    set_up_device(CPU, TrainConfig(tf32=False, deterministic=False))
    now = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    assert now == before


@pytest.fixture
def restored() -> Iterator[None]:
    """Settings of torch that a test changes come back after it."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark)
    yield
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark = before


def test_settings_reach_torch(restored: None) -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    set_up_device(torch.device("cuda"), TrainConfig(tf32=False))
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)
    assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    set_up_device(torch.device("cuda"), TrainConfig(deterministic=False))
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (True, True)
    assert (cudnn.deterministic, cudnn.benchmark) == (False, True)


def test_bf16_keeps_weights_gradients_statistics_and_logits() -> None:
    model = network()
    half = training_pass(model, BF16)
    assert isinstance(half, TrainingPass)
    images = torch.rand(6, 3, 6, 6)
    logits = half(images)
    logits.square().sum().backward()
    found = [*model.parameters(), *model.buffers(), logits]
    found += [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert len(found) == 6 + 3 + 1 + 6
    assert {t.dtype for t in found if t.is_floating_point()} == {torch.float32}
    exact = network()(images)
    assert 0 < float((logits - exact).abs().max()) < 0.1


def test_a_cpus_default_is_the_model_itself() -> None:
    model = network()
    places = [weight.stride() for weight in model.parameters()]
    assert training_pass(model, TrainConfig()) is model
    assert [w.stride() for w in lay_out(model, TrainConfig()).parameters()] == places


def test_channels_last_is_the_same_function() -> None:
    model = network().double().eval()
    images = torch.rand(6, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(
        TrainingPass(model, channels_last=True)(images), model(images)
    )


def test_a_tensor_that_is_there_is_not_copied() -> None:
    tensor = torch.zeros(3)
    assert to_device(tensor, CPU) is tensor


FAULTS = """
import resource, sys
import torch
from dathvd.devices import keep_pages

if sys.argv[1] == "keep":
    keep_pages()
torch.set_num_threads(1)
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(10 << 20).fill_(1)  # 40 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(
    ("ask", "environ", "kept"),
    [("keep", {}, True), ("keep", {"MALLOC_ARENA_MAX": "8"}, False), ("no", {}, False)],
)
def test_freed_memory_is_kept(ask: str, environ: dict[str, str], kept: bool) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, ask],
        env=clean | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (int(done.stdout) < 100) is kept  # else 10,240 pages
