"""The trained network that an objective asks for advice (``objective.helper``)."""

from __future__ import annotations

from torch import nn

from dathvd import checkpoint
from dathvd.components import OBJECTIVES
from dathvd.config import Config
from dathvd.data import Dataset
from dathvd.distributed.from_root import load_on_root
from dathvd.errors import UserError
from dathvd.runtime import Runtime, together


def load_helper(config: Config, dataset: Dataset, runtime: Runtime) -> nn.Module | None:
    """The network of ``objective.helper``, frozen; None where no objective asks.

    Every rank calls it; rank 0 alone needs to see the checkpoint. A network outside of
    dathvd is made only where it is this run's own kind too.

    Raises:
        UserError: on every rank, if there is none, or it tells other classes apart or
            sees other images.
    """
    helper = config.objective.helper
    if helper is None or not OBJECTIVES.wants(config.objective, "helper_network"):
        return None
    name, state = load_on_root(
        runtime,
        lambda: checkpoint.resolve(helper) / "model.pt",
        checkpoint.load_networks,
    )

    def build() -> nn.Module:
        shape, classes = tuple(state["image_shape"]), int(state["num_classes"])
        ours = (tuple(dataset.image_shape), len(dataset.classes))
        if (shape, classes) != ours:
            raise UserError(
                f"objective.helper: {name} is for {classes} classes of images "
                f"{shape}, this run has {ours[1]} of {ours[0]}"
            )
        network, _ = checkpoint.restore_model(state, name, trust=[config.model.name])
        return network.requires_grad_(False).to(runtime.device)

    return together(runtime, build)
