"""The attack sends nothing: calls into Horovod's library are counted on two ranks."""

from __future__ import annotations

import json
import sys

import pytest

from tests.processes import mpirun

COUNT = """
import json, sys
import torch
from horovod.torch import mpi_ops
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.runtime import start
from dathvd.training.workers import build_state
from dathvd.training.batches import BatchPlan

class Counting:
    '''Horovod's library, with its asynchronous collectives counted.'''
    calls = 0

    def __init__(self, native):
        self.native = native

    def __getattr__(self, name):
        function = getattr(self.native, name)
        if "_async" not in name:
            return function
        def counted(*arguments):
            Counting.calls += 1
            return function(*arguments)
        return counted

runtime = start("cpu")
native = mpi_ops.mpi_lib
for attack in sys.argv[1].split(","):
    config = load_config(None, [f"attack.name={attack}", *sys.argv[2:]])
    data = load_dataset(config.data)
    mpi_ops.mpi_lib, Counting.calls = native, 0
    state = build_state(config, data, runtime)
    mpi_ops.mpi_lib = Counting(native)
    plan = BatchPlan(
        data.train, 32, 1, runtime.rank, runtime.size, 0, None, runtime.device
    )
    [batch] = plan.step(0)
    trainer = state.trainer
    adversarial = trainer.attack(trainer.model, batch.images, batch.labels, batch.noise)
    during_attack = Counting.calls
    moved = float((adversarial - batch.images).abs().max())
    trainer.step([batch], 0.01)
    during_step = Counting.calls - during_attack
    if runtime.is_root:
        print(json.dumps([attack, during_attack, during_step, moved]))
"""
ATTACKS = ("pgd", "free")


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """Calls during each attack, during the step, and how far pixels moved."""
    script = tmp_path_factory.mktemp("traffic") / "count.py"
    script.write_text(COUNT)
    settings = ["data.name=synthetic", "data.image_size=8"]
    settings += ["attack.num_steps=3", "model.normalization=batch"]
    # synchronised statistics: a forward pass that sends in training
    settings += ["train.batch_norm=synchronised"]
    done = mpirun(2, [sys.executable, str(script), ",".join(ATTACKS), *settings])
    assert done.code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "["]
    return {name: figures for name, *figures in rows}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attack_sends_nothing(attack: str, counted: dict[str, list[float]]) -> None:
    during_attack, during_step, moved = counted[attack]
    assert during_attack == 0
    assert during_step > 0, "the count sees no collective at all"
    assert moved > 0, "the attack did nothing"
