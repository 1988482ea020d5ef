"""Training that starts from another run's network, or from a file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dathvd import checkpoint, weight_files
from dathvd.config import ModelConfig
from dathvd.distributed.from_root import load_on_root
from dathvd.errors import UserError
from dathvd.models import head_name
from dathvd.runtime import Runtime, read_on_root, together

# what the trunk's function depends on beside its weights
_TRUNK = ("name", "options", "width", "normalization", "activation", "mean", "std")


def initialise(model: nn.Module, config: ModelConfig, runtime: Runtime) -> str | None:
    """Fill the network from ``model.init``; every rank calls it.

    Rank 0 alone needs to see the checkpoint.

    Returns:
        What was taken, in one line; None without ``model.init``.

    Raises:
        UserError: on every rank, if the checkpoint cannot be used or has another trunk.
    """
    if config.init is None:
        return None
    init = config.init
    if weight_files.names_a_file(init):
        return _from_file(model, config, init, runtime)
    name, state = load_on_root(
        runtime,
        lambda: _in_run(config, init),
        checkpoint.load_networks,
    )
    head_too = together(runtime, lambda: _fill(model, config, state, name))
    kind = "averaged " if config.init_weights == "ema" else ""
    what = f"all {kind}weights" if head_too else f"the {kind}trunk, with a new head,"
    return f"starting from {what} of {name}; {_trained(config)}"


def _in_run(config: ModelConfig, init: str) -> Path:
    """The file of the newest checkpoint of a run.

    Raises:
        UserError: there is none, or a file was meant.
    """
    if Path(init).is_file():
        raise UserError(
            f"model.init: {init} is a file, and ends with none of "
            f"{', '.join(weight_files.SUFFIXES)}"
        )
    if config.init_keys or config.init_partial:
        raise UserError(
            f"model.init_keys and model.init_partial belong to a file of weights, and "
            f"model.init {init} is a run: leave them out"
        )
    return checkpoint.resolve(init) / "model.pt"


def _trained(config: ModelConfig) -> str:
    alone = config.init_mode == "linear"
    return "the head alone is trained" if alone else "all are trained"


def _from_file(
    model: nn.Module, config: ModelConfig, init: str, runtime: Runtime
) -> str:
    """Fill the network from a file that another program wrote."""
    name, data = read_on_root(runtime, lambda: weight_files.find(init, "model.init"))
    average = config.init_weights == "ema"
    digest = weight_files.is_torchvisions(init)

    def fill() -> weight_files.Match:
        keys = config.init_keys
        found = weight_files.compare(
            model, data, name, keys, average=average, digest=digest
        )
        lacks = found.unfilled(f"{head_name(model)}.")
        if not found.taken or (lacks and not config.init_partial):
            raise UserError(
                f"model.init: {name} does not fill the network's trunk: "
                f"{found.describe()}; map names by model.init_keys, or set "
                "model.init_partial to begin the rest at random"
            )
        model.load_state_dict(found.weights, strict=False)
        return found

    found = together(runtime, fill)
    kind = "averages, " if average else ""
    return f"starting from {name}: {kind}{found.describe()}; {_trained(config)}"


def _fill(
    model: nn.Module, config: ModelConfig, state: dict[str, Any], name: str
) -> bool:
    """Copy the trunk, and the head where it fits; whether it does."""
    source = checkpoint.stored_config(state, name)
    for field in _TRUNK:
        theirs, ours = getattr(source.model, field), getattr(config, field)
        if theirs != ours:
            raise UserError(
                f"model.init: {name} has model.{field} {theirs!r}, this run {ours!r}"
            )
    head = f"{head_name(model)}."
    target = model.state_dict()
    weights = checkpoint.stored_weights(state, name, config.init_weights)
    head_too = not source.objective.is_self_supervised and _fits(
        _part(target, head), _part(weights, head)
    )
    if not head_too:
        trunk = {key: weights[key] for key in weights if not key.startswith(head)}
        weights = {**trunk, **_part(target, head)}
    checkpoint.load_weights(model, weights, name)
    return head_too


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.startswith(prefix)}


def _fits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether both have tensors of the same names and shapes."""
    return {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items()
    }
