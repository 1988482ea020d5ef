"""Weights that another program saved: read without running code, matched by name.

A ``state_dict`` in a file of torch (.pt, .pth, …) or of safetensors, or the weights
that torchvision names, in the file that its own download leaves.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dathvd.errors import UserError
from dathvd.models.layers import Normalize

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
"""Endings of the names of such files."""
_TORCHVISION = re.compile(r"(\w+_Weights)\.(\w+)")
_ENTRIES = ("state_dict", "model_state_dict", "model", "net", "params", "module")
"""Names under which training programs put the ``state_dict``, the likeliest first."""
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "ema_model")
_SHOWN = 4


def names_a_file(init: str) -> bool:
    """Whether a text stands for a file of weights, and not for a run's folder."""
    return init.endswith(SUFFIXES) or is_torchvisions(init)


def is_torchvisions(init: str) -> bool:
    """Whether a text is torchvision's name of weights, such as its files go by."""
    return _TORCHVISION.fullmatch(init) is not None


def find(init: str, field: str) -> Path:
    """The file that a path or torchvision's name of weights stands for.

    Raises:
        UserError: there is no such name, or the file is not there; nothing is
            downloaded.
    """
    named = _TORCHVISION.fullmatch(init)
    if named is None:
        return Path(init).expanduser()
    from dathvd.torchvision_shim import torchvision

    try:
        url = str(torchvision.models.get_weight(init).url)
    except (ValueError, KeyError, AttributeError):
        known = [
            str(weights)
            for name in torchvision.models.list_models(torchvision.models)
            for weights in torchvision.models.get_model_weights(name)
        ]
        close = difflib.get_close_matches(init, known, n=1, cutoff=0.0)
        raise UserError(
            f"{field}: torchvision has no weights {init} (did you mean {close[0]!r}?)"
        ) from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        raise UserError(
            f"{field}: {init}: no file {file}; put what is at {url} there (TORCH_HOME "
            "moves that folder)"
        )
    return file


def read(
    data: bytes, name: str, *, average: bool = False, digest: bool = False
) -> dict[str, Tensor]:
    """The tensors of a ``state_dict`` by name; never executes code.

    Args:
        data: the file's bytes.
        name: the file's, whose ending says what it is.
        average: take the moving average that a training program kept beside.
        digest: the file is torchvision's, whose names end with the first digits of
            their SHA-256, which are compared. In others' names they are a date or a
            step.

    Raises:
        UserError: the bytes are damaged, or hold no such weights, or more than tensors
            and plain values.
    """
    if digest:
        _check_digest(data, name)
    reader = _safetensors if name.endswith(".safetensors") else _torch
    tree = reader(data, name)
    found = _state_dict(tree, name, _AVERAGES if average else _ENTRIES, average)
    return {
        key: value
        for key, value in found.items()
        if isinstance(key, str) and isinstance(value, Tensor)
    }


def _check_digest(data: bytes, name: str) -> None:
    """Compare the eight hex digits that torch's own downloads carry in their name."""
    digits = re.search(r"-([0-9a-f]{8})\.pth$", name)
    if digits and not hashlib.sha256(data).hexdigest().startswith(digits[1]):
        raise UserError(f"weights {name}: damaged: its SHA-256 is not {digits[1]}…")


def _safetensors(data: bytes, name: str) -> dict[str, Any]:
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(
            f"weights {name}: needs the package safetensors: pip install safetensors"
        ) from None
    try:
        return dict(safetensors.torch.load(data))
    except Exception as error:  # noqa: B902 (its errors have no public base)
        raise UserError(
            f"weights {name}: damaged, or no safetensors: {error}"
        ) from None


def _torch(data: bytes, name: str) -> Any:
    problem = UserError(f"weights {name}: damaged, or not a file of torch.save")
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # torch compares no checksum
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if archive.testzip() is not None:
                    raise problem
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" not in str(error):
            raise problem from None
        raise UserError(
            f"weights {name}: holds more than tensors and plain values, which could "
            "run code when read; save the state_dict alone, "
            "torch.save(model.state_dict(), FILE)"
        ) from None
    except Exception:  # noqa: B902 (damage ends an unpickler in any error)
        raise problem from None


def _state_dict(
    tree: Any, name: str, entries: Iterable[str], average: bool
) -> dict[str, Any]:
    """The entry that holds the tensors, or the tensors themselves.

    Tensors beside such an entry, as of random numbers, are no weights.
    """
    if not isinstance(tree, dict):
        raise UserError(f"weights {name}: expected a state_dict, got {_kind(tree)}")
    inner = {key: value for key, value in tree.items() if _holds_tensors(value)}
    for entry in entries:
        if entry in inner:
            return dict(inner[entry])
    if _holds_tensors(tree) and not average:
        return tree
    if len(inner) == 1 and not average:
        return dict(next(iter(inner.values())))
    what = "moving average of the weights" if average else "state_dict"
    there = ", ".join(map(repr, inner or tree)) or "nothing"
    raise UserError(f"weights {name}: no {what}, only {there}")


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, dict) and any(
        isinstance(each, Tensor) and each.dim() > 0 for each in value.values()
    )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


@dataclass(frozen=True)
class Match:
    """A network's tensors, those of a file where they fit, and what did not."""

    weights: dict[str, Tensor]
    """Of all of the network's names."""
    taken: tuple[str, ...]
    """The names that the file fills."""
    missing: tuple[str, ...]
    """The network's, not in the file."""
    misshapen: tuple[str, ...]
    """The network's, in the file with another shape, or as numbers that are no
    weights; both are said."""
    unused: tuple[str, ...]
    """The file's, not in the network."""

    def unfilled(self, head: str) -> list[str]:
        """The network's names outside of its head that were not filled."""
        names = [each.partition(" ")[0] for each in (*self.missing, *self.misshapen)]
        return [name for name in names if not name.startswith(head)]

    def describe(self) -> str:
        """How much was taken and what did not fit, in one line."""
        parts = [f"{len(self.taken)} of {len(self.weights)} tensors"]
        for words, names in (
            ("not in the file", self.missing),
            ("of another shape or type", self.misshapen),
            ("not in the network", self.unused),
        ):
            if names:
                more = len(names) - _SHOWN
                rest = f" and {more} more" if more > 0 else ""
                parts.append(f"{words}: {', '.join(names[:_SHOWN])}{rest}")
        return "; ".join(parts)


def match(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], keys: Mapping[str, str]
) -> Match:
    """Bring together what has the same name.

    Wrappers put a name of their own before all others (``module.`` of data parallelism,
    a first layer that normalises): on either side such a beginning may be left out;
    the choice that brings the most together is taken.

    Args:
        own: the network's tensors.
        theirs: the file's.
        keys: beginnings of the file's names, and what the network has in their place;
            the longest that fits counts.
    """
    renamed = {_rename(name, keys): value for name, value in theirs.items()}
    best = max(
        (
            _pair(own, renamed, ours, away)
            for away in _beginnings(renamed)
            for ours in _beginnings(own)
        ),
        key=lambda found: len(found.taken),
    )
    return best


def compare(
    model: nn.Module,
    data: bytes,
    name: str,
    keys: Mapping[str, str],
    *,
    average: bool = False,
    digest: bool = False,
) -> Match:
    """What of a file's weights fits a network; see ``read`` and ``match``."""
    theirs = read(data, name, average=average, digest=digest)
    return match(learnt(model), theirs, keys)


def _rename(name: str, keys: Mapping[str, str]) -> str:
    fits = [beginning for beginning in keys if name.startswith(beginning)]
    if not fits:
        return name
    longest = max(fits, key=len)
    return keys[longest] + name.removeprefix(longest)


def _beginnings(names: Iterable[str]) -> list[str]:
    """What may stand before a network's own names: nothing, or one or two words of
    those that most names begin with."""
    names = [name for name in names if name.count(".") > 0]
    found = [""]
    for words in (1, 2):
        starts = [".".join(name.split(".")[:words]) + "." for name in names]
        if starts:
            common = max(sorted(set(starts)), key=starts.count)
            if 2 * starts.count(common) > len(starts):
                found.append(common)
    return found


def learnt(model: nn.Module) -> dict[str, Tensor]:
    """A network's tensors but those that its configuration decides (mean and std)."""
    layers = [
        f"{name}."
        for name, each in model.named_modules()
        if isinstance(each, Normalize)
    ]
    return {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith(tuple(layers))
    }


def _pair(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], ours: str, away: str
) -> Match:
    stripped = {name.removeprefix(away): value for name, value in theirs.items()}
    weights, taken, missing, misshapen, used = dict(own), [], [], [], set()
    for name, tensor in own.items():
        key = name.removeprefix(ours)
        found = stripped.get(key)
        if found is None:
            missing.append(name)
            continue
        used.add(key)
        misfit = _misfit(found, tensor)
        if misfit is not None:
            misshapen.append(f"{name} ({misfit})")
            continue
        weights[name] = found.to(tensor.dtype)
        taken.append(name)
    # a count of batches is no weight; files of older versions have none
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    unused = tuple(name for name in stripped if name not in used)
    return Match(weights, tuple(taken), tuple(missing), tuple(misshapen), unused)


def _misfit(theirs: Tensor, own: Tensor) -> str | None:
    """In what a file's tensor is another than the network's; None where it fits.

    Floats of any width fit. Quantised ones, whose scales lie elsewhere, do not.
    """
    if theirs.shape != own.shape:
        return f"{list(theirs.shape)}, here {list(own.shape)}"
    if theirs.layout != own.layout:
        return f"{theirs.layout}, here {own.layout}"
    if own.is_floating_point() and not theirs.is_floating_point():
        return f"{theirs.dtype}, here {own.dtype}"
    return None
