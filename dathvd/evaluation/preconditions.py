"""What must be true of a network and its data set before it is judged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dathvd.attacks.network import gradient_if_any, in_mode, no_gradient
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.errors import UserError
from dathvd.evaluation.grid import Cell
from dathvd.registry import is_foreign
from dathvd.tasks import load_judged


def judged_data(config: Config, run: str) -> Dataset:
    """The data set as the run's objective sees it.

    Raises:
        UserError: files are not usable, or the run's network tells no classes apart.
    """
    if not config.objective.has_classes:
        raise no_classifier(run, config)
    return load_judged(config)


def no_classifier(run: str, config: Config) -> UserError:
    """The error of a run whose network tells no classes of the data set apart."""
    return UserError(
        f"run {run}: pre-trained by {config.objective.name}, it knows no classes; "
        "train a classifier from it first (model.init)"
    )


def check_outputs(model: nn.Module, dataset: Dataset, device: torch.device) -> None:
    """Refuse a network that does not tell the data set's classes apart.

    Raises:
        UserError: it gives another number of outputs, as after pre-training.
    """
    with in_mode(model, training=False) as network, torch.no_grad():
        outputs = network(first_image(dataset, device)).shape[1]
    if outputs != len(dataset.classes):
        raise UserError(
            f"the network has {outputs} outputs and the data set "
            f"{len(dataset.classes)} classes: it was pre-trained, train it on labels "
            "first (model.init)"
        )


def is_cut_off(model: nn.Module, dataset: Dataset, device: torch.device) -> bool:
    """Whether a network's logits depend on its images by no gradient at all."""
    with in_mode(model, training=False) as network, torch.enable_grad():
        inputs = first_image(dataset, device).requires_grad_()
        return gradient_if_any(inputs, network(inputs).sum()) is None


def follows_gradients(cell: Cell) -> bool:
    """Whether its attack is one of this package's that follow gradients."""
    own = cell.kind.inherits and not is_foreign(cell.attack)
    return own or cell.attack == "autoattack"


def check_gradients(model: nn.Module, dataset: Dataset, device: torch.device) -> None:
    """Refuse a network whose images no gradient reaches.

    Raises:
        UserError: it is one.
    """
    if is_cut_off(model, dataset, device):
        raise no_gradient()


def first_image(dataset: Dataset, device: torch.device) -> Tensor:
    """The first test image, float ``[1, C, H, W]`` in [0, 1]."""
    first = dataset.test.batch(torch.zeros(1, dtype=torch.int64))
    return first.to(device).float() / 255
