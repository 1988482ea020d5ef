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


def load_task(config: Config, *, extra: bool = True) -> Dataset:
    """The configured data set as the task sees it.

    Args:
        config: data and objective.
        extra: with the images of ``data.extra``; whoever looks at the test set alone
            needs no such file.

    Raises:
        UserError: files or settings are not usable.
    """
    data = config.data if extra else config.data.without_extra()
    return task_of(config.objective).dataset(load_dataset(data))
