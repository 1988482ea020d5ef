"""The network in a checkpoint, and what may be imported to make it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from dathvd.checkpoint.files import load_file
from dathvd.checkpoint.folders import Which, resolve
from dathvd.config import Config, explain
from dathvd.errors import UserError, nearest

Weights = str
"""The weights of the last step (``raw``) or their average (``ema``): of several, the
best one on held-out training images. Each has a name of its own, too, such as
``ema-0.999`` or ``swa``."""
Trust = bool | Collection[str]
"""Which components outside of dathvd a checkpoint may have imported: all, none, or
those of these places. Importing one runs its module's code."""


def stored_config(state: dict[str, Any], name: str) -> Config:
    """The configuration of a loaded ``model.pt``; imports nothing that it names.

    Raises:
        UserError: it is not valid here, such as one with a component unknown here.
    """
    try:
        return Config.model_validate_json(state["config"])
    except ValidationError as error:
        raise UserError(f"checkpoint {name}: {explain(error)}") from None


def require_trust(
    config: Config, fields: Collection[str], name: str, trust: Trust
) -> None:
    """Refuse a stored configuration that would have code outside of dathvd imported.

    Args:
        config: of a checkpoint.
        fields: of the components that are about to be made, such as ``model.name``.
        name: the checkpoint's.
        trust: what may be imported all the same.

    Raises:
        UserError: one of the components lies outside of dathvd and is not trusted.
    """
    refused = [
        f"{field} {place}"
        for field, place in config.foreign().items()
        if field in fields
        and not (trust if isinstance(trust, bool) else place in trust)
    ]
    if refused:
        raise UserError(
            f"checkpoint {name}: names code outside of dathvd ({', '.join(refused)}), "
            "which loading a checkpoint does not run; if you trust it, say --trust, or "
            "load_model(run, network=...) in Python"
        )


def restore_model(
    state: dict[str, Any],
    name: str,
    weights: Weights = "raw",
    *,
    network: nn.Module | None = None,
    trust: Trust = False,
) -> tuple[nn.Module, Config]:
    """The network and configuration of a loaded ``model.pt``.

    Args:
        state: what the file holds.
        name: the file's, for errors.
        weights: ``raw``, ``ema`` or an average's name.
        network: takes the weights; None makes the one that the configuration names.
        trust: whether that one may lie outside of dathvd.

    Raises:
        UserError: the checkpoint is another model's, holds no such weights, or names a
            network outside of dathvd that is neither given nor trusted.
    """
    from dathvd.models import build_model, finish_model

    config = stored_config(state, name)
    image_shape = tuple(state["image_shape"])
    if network is None:
        require_trust(config, ["model.name"], name, trust)
        classes = int(state["num_classes"])
        model = build_model(config.model, image_shape, num_classes=classes)
    else:
        model = finish_model(network, config.model, image_shape)
    load_weights(model, stored_weights(state, name, weights), name)
    return model.eval(), config


def stored_weights(state: dict[str, Any], name: str, weights: Weights) -> Any:
    """The ``state_dict`` of those weights in a loaded ``model.pt``.

    Raises:
        UserError: it holds no such weights.
    """
    if weights == "raw":
        return state["model"]
    averages = average_updates(state)
    if not averages:
        raise UserError(
            f"checkpoint {name}: holds no moving average of the weights, being "
            "trained with train.ema_decay 0: take the raw weights"
        )
    if weights not in averages and weights != "ema":
        hint = nearest(weights, averages)
        raise UserError(f"checkpoint {name}: holds no average {weights!r} {hint}")
    return state[state.get("best_average", "ema") if weights == "ema" else weights]


def average_updates(state: dict[str, Any]) -> dict[str, int]:
    """The averages in a loaded ``model.pt`` by name: how many updates are in each."""
    if "average_updates" in state:
        found: dict[str, int] = state["average_updates"]
        return found
    # files of one moving average alone, as they once were
    return {"ema": int(state.get("ema_updates", 0))} if "ema" in state else {}


def load_weights(model: nn.Module, weights: dict[str, Any], name: str) -> None:
    """Fill the model.

    Raises:
        UserError: names or shapes differ; the first difference is named.
    """
    expected = model.state_dict()
    for key in [*expected, *weights]:
        if key not in weights or key not in expected:
            where = "lacks" if key not in weights else "has an unknown"
            raise UserError(f"checkpoint {name}: of another model: {where} {key!r}")
        if expected[key].shape != weights[key].shape:
            raise UserError(
                f"checkpoint {name}: of another model: {key!r} has shape "
                f"{tuple(weights[key].shape)}, expected {tuple(expected[key].shape)}"
            )
    model.load_state_dict(weights)


def load_model(
    path: str | Path,
    weights: Weights = "raw",
    *,
    checkpoint: Which = "last",
    network: nn.Module | None = None,
) -> nn.Module:
    """The trained network of a run, ready to use; needs no Horovod.

    Args:
        path: a run folder or a checkpoint folder.
        weights: ``raw`` for those of its step, ``ema`` for their average: of several
            the best one, which are also called by their names.
        checkpoint: of a run folder, the ``last`` one or the ``best``, which
            ``train.select: best`` keeps.
        network: a fresh network of the run's kind, whose weights are replaced. Needed
            where ``model.name`` lies outside of dathvd: a checkpoint never has such
            code imported by itself.

    Returns:
        A module in eval mode on the CPU, from images ``[batch, channels, height,
        width]`` float32 in [0, 1] to logits ``[batch, classes]``.

    Raises:
        UserError: there is no checkpoint, it is corrupted, it holds no average, or its
            network lies outside of dathvd and is not given.
    """
    file = resolve(path, checkpoint) / "model.pt"
    state = load_file(file)
    return restore_model(state, str(file), weights, network=network)[0]
