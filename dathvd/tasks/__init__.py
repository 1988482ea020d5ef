"""Tasks: what a network is trained to tell, from labels or from the images alone.

The objective decides the task. Most learn the data set's labels; those of
``dathvd.components.PRETEXTS`` make labels of their own.
"""

from dathvd.tasks.build import load_judged, load_task, task_of
from dathvd.tasks.task import Task

__all__ = ["Task", "load_judged", "load_task", "task_of"]
