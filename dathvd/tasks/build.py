"""From an objective to its task."""

from __future__ import annotations

from dathvd.components import PRETEXTS
from dathvd.config import Config, ObjectiveConfig
from dathvd.data import Dataset, load_dataset
from dathvd.tasks.task import Task


def task_of(objective: ObjectiveConfig) -> Task:
    """The task that comes with an objective."""
    pretext: type[Task] = PRETEXTS.get(objective.name, Task)
    return pretext(objective)


def load_task(config: Config) -> Dataset:
    """The configured data set as the task sees it.

    Raises:
        UserError: files or settings are not usable.
    """
    return task_of(config.objective).dataset(load_dataset(config.data))


def load_judged(config: Config) -> Dataset:
    """The same for what is judged on its test set: extra training images are not read,
    and their files may be gone.

    Raises:
        UserError: files or settings are not usable.
    """
    return load_task(config.model_copy(update={"data": config.data.without_extra()}))
