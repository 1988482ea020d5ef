"""What a checkpoint costs: the step's pause, the memory, and the way back.

``mpirun -np 2 python -m dathvd.benchmark.step.saving`` trains a large network a step
and writes its weights and LAMB's state in two ways: rank 0 writes one file while all
wait, and as runs do (``dathvd.training.saver``): all ranks copy their part, and threads
write the copies. It reads both again: the one file sent as bytes to all, and tensor by
tensor. Memory is the peak of a rank's resident set above what it had before.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import horovod.torch as hvd
import torch
from torch import nn

from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.runtime import Runtime, bytes_from_root, gather_json, start
from dathvd.training.batches import plan_of
from dathvd.training.saver import Saver
from dathvd.training.saving import restore
from dathvd.training.state import TrainingState
from dathvd.training.workers import build_state

_WIDTH = 4096
_LAYERS = "DATHVD_BENCHMARK_LAYERS"
_SETTINGS = [
    "model.name=dathvd.benchmark.step.saving:network",
    *("data.name=synthetic", "data.image_size=8", "data.num_train=8"),
    *("data.num_test=8", "train.batch_size=4", "train.epochs=1"),
    *("attack.name=none", "objective.name=plain", "optimizer.name=lamb"),
]


def network(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Square layers of 64 MiB each."""
    channels, height, width = image_shape
    layers = [
        nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(int(os.environ[_LAYERS]))
    ]
    first = nn.Linear(channels * height * width, _WIDTH)
    return nn.Sequential(nn.Flatten(), first, *layers, nn.Linear(_WIDTH, num_classes))


@dataclass(frozen=True)
class Cost:
    """Of one way to save or to restore."""

    what: str
    pause: float
    """Seconds in which training stands still."""
    whole: float
    """Seconds until it is done."""
    memory: list[float]
    """Bytes more at most, of each rank."""

    def to_line(self) -> str:
        """One line for people."""
        memory = ", ".join(f"{each / 1e9:.2f}" for each in self.memory)
        return (
            f"{self.what}: the step waits {self.pause:.2f} s, done after "
            f"{self.whole:.2f} s, memory by rank {memory} GB"
        )


def measured(
    what: str, runtime: Runtime, pause: Callable[[], None], rest: Callable[[], None]
) -> Cost:
    """Time ``pause``, in which training stands still, and ``rest`` after it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is held now
    before = _resident("VmRSS")
    gather_json(0, "measured.begin", runtime.size)
    began = time.perf_counter()
    pause()
    paused = time.perf_counter() - began
    rest()
    gather_json(0, "measured.end", runtime.size)
    whole = time.perf_counter() - began
    more = gather_json(_resident("VmHWM") - before, "measured.memory", runtime.size)
    return Cost(what, paused, whole, more)


def _resident(field: str) -> float:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    match = re.search(rf"{field}:\s+(\d+) kB", text)
    assert match is not None
    return 1024.0 * int(match[1])


def _save_whole(state: TrainingState, file: Path, runtime: Runtime) -> None:
    shared = state.shared_dict(runtime.size)
    if runtime.is_root:
        with file.open("wb") as stream:
            torch.save(shared, stream)
            os.fsync(stream.fileno())
    gather_json(0, "whole.saved", runtime.size)


def _load_whole(state: TrainingState, file: Path, runtime: Runtime) -> None:
    data = file.read_bytes() if runtime.is_root else b""
    if runtime.size > 1:
        data = bytes_from_root(data, "whole")
    shared = torch.load(io.BytesIO(data), weights_only=True)
    state.load_weights(shared, str(file))
    state.load_shared_dict(shared)


def compare(run: Path, runtime: Runtime) -> list[Cost]:
    """Save and restore in both ways; every rank calls it."""
    config = load_config(None, _SETTINGS)
    dataset = load_dataset(config.data)
    state = build_state(config, dataset, runtime)
    plan = plan_of(config, dataset, runtime.device, runtime.rank, runtime.size)
    state.trainer.step(list(plan.step(0)), 0.01)
    state.step = 1
    saver, finals = Saver(state, run, runtime), []
    whole = run / "whole.pt"
    costs = [
        measured(
            "one file, all wait",
            runtime,
            lambda: _save_whole(state, whole, runtime),
            lambda: None,
        ),
        measured(
            "a part a rank, beside the steps",
            runtime,
            lambda: finals.append(saver.begin()),
            saver.finish,
        ),
        measured(
            "one file read and sent",
            runtime,
            lambda: _load_whole(state, whole, runtime),
            lambda: None,
        ),
    ]
    costs.append(
        measured(
            "tensor by tensor",
            runtime,
            lambda: restore(state, finals[0], runtime),
            lambda: None,
        )
    )
    return costs


@click.command()
@click.option("--layers", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--folder", help="Where to write.  [default: for temporary files]")
def main(layers: int, folder: str | None) -> None:
    """Compare two ways to save and to restore a network of LAYERS × 64 MiB."""
    os.environ[_LAYERS] = str(layers)
    runtime = start("cpu")
    made = tempfile.mkdtemp(prefix="dathvd-saving-", dir=folder)
    run = Path(gather_json(made, "folder", runtime.size)[0])
    try:
        (run / "checkpoints").mkdir(exist_ok=True)
        for cost in compare(run, runtime):
            if runtime.is_root:
                click.echo(cost.to_line())
    finally:
        shutil.rmtree(made, ignore_errors=True)
        hvd.shutdown()


if __name__ == "__main__":
    main()
