"""Networks that dathvd did not train: made by a user's function, filled from a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dathvd import weight_files
from dathvd.components import DATASETS
from dathvd.config import Config, load_config
from dathvd.data import Dataset
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.noise import mix_seed
from dathvd.registry import is_foreign
from dathvd.runtime import Runtime, read_on_root, together

_WEIGHTS = 0x4E


def foreign_config(
    place: str,
    data: str,
    weights: str | None,
    overrides: Sequence[str] = (),
    *,
    trust: bool,
) -> Config:
    """A configuration whose network is a user's, with the data that it is judged on.

    Args:
        place: ``package.module:function`` of what makes the network; it is called with
            ``image_shape`` and ``num_classes`` where its parameters name them.
        data: a data set's name, or a configuration (file or shipped name), of which all
            but the network counts.
        weights: the file of the weights, or torchvision's name of them; None where the
            function fills the network itself.
        overrides: ``section.field=value``; ``model.options.NAME`` are the function's.
        trust: that the module may be imported, which runs its code.

    Raises:
        UserError: something is not valid, or not trusted.
    """
    if not is_foreign(place):
        raise UserError(f"--model {place}: expected package.module:function")
    if not trust:
        raise UserError(
            f"--model {place}: names code outside of dathvd, which importing it runs; "
            "if you trust it, say --trust"
        )
    if weights is not None and not weight_files.names_a_file(weights):
        raise UserError(
            f"--weights {weights}: expected a file of weights "
            f"({', '.join(weight_files.SUFFIXES)}), or torchvision's name of them"
        )
    named = data in DATASETS.places or is_foreign(data)
    own = [each for each in overrides if each.startswith("model.")]
    rest = [each for each in overrides if not each.startswith("model.")]
    name = [f"data.name={data}"] if named else []
    base = load_config(None if named else data, [*name, *rest])
    init = [] if weights is None else [f"model.init={weights}"]
    network = load_config(None, [f"model.name={place}", *init, *own]).model
    return base.model_copy(update={"model": network})


def foreign_network(config: Config, dataset: Dataset, runtime: Runtime) -> nn.Module:
    """The network in eval mode; every rank calls it, rank 0 alone reads the weights.

    Raises:
        UserError: on every rank: it cannot be made, does not tell the data set's
            classes apart, or its weights do not fit.
    """

    def build() -> nn.Module:
        # what the function draws, and no file fills, is equal on all ranks
        torch.manual_seed(mix_seed(config.seed, _WEIGHTS))
        return build_model(config.model, dataset.image_shape, len(dataset.classes))

    model = together(runtime, build)
    init = config.model.init
    if init is None:
        return model.eval()
    name, data = read_on_root(runtime, lambda: weight_files.find(init, "--weights"))
    average = config.model.init_weights == "ema"
    digest = weight_files.is_torchvisions(init)

    def fill() -> str:
        keys = config.model.init_keys
        found = weight_files.compare(
            model, data, name, keys, average=average, digest=digest
        )
        if found.missing or found.misshapen:
            raise UserError(
                f"--weights {name}: do not fill the network: {found.describe()}; map "
                "names by --set 'model.init_keys={theirs: ours}'"
            )
        model.load_state_dict(found.weights, strict=False)
        return found.describe()

    said = together(runtime, fill)
    if runtime.is_root:
        print(f"weights of {name}: {said}", flush=True)
    return model.eval()
