"""What all ranks agree upon before anything is built: data, batches, folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dathvd import run_folder, run_lock
from dathvd.config import Config
from dathvd.data import Dataset, ImageSet
from dathvd.devices import check_precision, set_up_device
from dathvd.errors import UserError
from dathvd.runtime import Runtime, from_root, together
from dathvd.tasks import load_task
from dathvd.training.batches import BatchPlan, plan_of
from dathvd.training.components import check_components
from dathvd.training.guard import hold_out


@dataclass(frozen=True)
class Job:
    """What a run works on and where."""

    config: Config
    runtime: Runtime
    """This worker's place."""
    dataset: Dataset
    """The data set as the task sees it, without the images that are held out."""
    held_out: ImageSet | None
    """Training images for the guard's probe; None where nothing is probed."""
    plan: BatchPlan
    """This worker's batches of every step."""
    folder: Path
    """The run folder."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.config.train.epochs * self.plan.steps_per_epoch

    def say(self, line: str) -> None:
        """Print a line; rank 0 does."""
        if self.runtime.is_root:
            print(line, flush=True)


def prepare(config: Config, run: Path | None, runtime: Runtime) -> Job:
    """Check the settings, load the data and take the folder; every rank calls it.

    Args:
        config: all that decides the result.
        run: the run folder; None makes a dated one under ``runs/``.
        runtime: this worker's place.

    Raises:
        UserError: on every rank: bad input, or a folder that is another run's.
    """
    together(runtime, lambda: check_batch(config, runtime.size))
    together(runtime, lambda: check_precision(runtime.device, config))
    set_up_device(runtime.device, config.train)
    together(runtime, lambda: check_components(config))
    dataset, held_out = together(runtime, lambda: load(config))
    plan = together(
        runtime,
        lambda: plan_of(config, dataset, runtime.device, runtime.rank, runtime.size),
    )
    folder = _agree_on_folder(config, run, runtime)
    return Job(config, runtime, dataset, held_out, plan, folder)


def load(config: Config) -> tuple[Dataset, ImageSet | None]:
    """The data set, and training images taken from it for the guard's probe.

    Raises:
        UserError: files or settings are not usable.
    """
    dataset = load_task(config)
    if not config.train.probes:
        return dataset, None
    return hold_out(dataset, config)


def check_batch(config: Config, size: int) -> None:
    """Refuse a batch that cannot give every worker an image.

    Raises:
        UserError: the batch is smaller than the number of workers.
    """
    parts = size * config.train.backward_passes_per_step
    if config.train.batch_size < parts:
        raise UserError(
            f"train.batch_size: {config.train.batch_size} images a step are fewer than "
            f"{parts} (workers * backward_passes_per_step); use at least {parts}"
        )


def _agree_on_folder(config: Config, run: Path | None, runtime: Runtime) -> Path:
    def take() -> list[str]:
        if not runtime.is_root:
            return []
        folder = run or run_folder.make_default_run_folder(config)
        run_folder.prepare(folder, config)
        return [str(folder), run_lock.hold(folder)]

    name, mark = from_root(runtime, together(runtime, take))
    folder = Path(name)
    together(runtime, lambda: run_lock.look_for(folder, mark))
    if runtime.is_root:
        run_lock.forget(folder, mark)
    return folder
