"""LAMB and LARS inside Horovod's own DistributedOptimizer."""

import subprocess
import sys

import pytest

pytest.importorskip("horovod")

SCRIPT = """
import copy, torch
import horovod.torch as hvd
from dathvd.config import OptimizerConfig
from dathvd.optim import build_optimizer, named_trust_ratios

hvd.init()
for name in ("lamb", "lars"):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    plain = copy.deepcopy(model)
    config = OptimizerConfig(name=name, lr=0.05, adapt_vectors=False)
    alone = build_optimizer(config, plain.named_parameters())
    wrapped = hvd.DistributedOptimizer(
        build_optimizer(config, model.named_parameters()),
        named_parameters=model.named_parameters(),
    )
    for step in range(3):
        images = torch.randn(4, 5)
        for network, optimizer in ((model, wrapped), (plain, alone)):
            optimizer.zero_grad()
            network(images).square().sum().backward()
            optimizer.step()
    assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert list(named_trust_ratios(wrapped, model.named_parameters())) == ["weight"]
    assert wrapped.state_dict()["param_groups"][0]["step"] == 3
print("equal")
"""


@pytest.mark.slow
def test_wrapped_by_horovod() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "equal", done.stderr
