"""An export from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dathvd.checkpoint import Trust, Weights
from dathvd.errors import choose
from dathvd.export.check import Difference, compare
from dathvd.export.form import Form, Trained
from dathvd.export.onnx_file import Onnx
from dathvd.export.program import Program
from dathvd.export.robustbench import RobustBench
from dathvd.export.source import Chosen, load_trained
from dathvd.export.tensors import Safetensors
from dathvd.files import make_folder

FORMATS: dict[str, Callable[[Sequence[Path]], Form]] = {
    "torch": lambda evaluations: Program(),
    "onnx": lambda evaluations: Onnx(),
    "safetensors": lambda evaluations: Safetensors(),
    "robustbench": RobustBench,
}
"""Makers of forms, from the files of evaluations that are given."""


@dataclass(frozen=True)
class ExportRequest:
    """What is exported, and how."""

    form: str
    output: Path | None = None
    """None makes a file or folder in the run folder's ``exported``."""
    checkpoint: Chosen = "last"
    weights: Weights = "raw"
    trust: Trust = False
    evaluations: tuple[Path, ...] = ()
    check: bool = False


def export_run(run: Path, request: ExportRequest) -> Difference | None:
    """Write a run's network in that form and tell of it; how far it is off, if checked.

    Raises:
        UserError: no usable checkpoint, a package is missing, or the place cannot be
            written.
    """
    form = choose("--to", request.form, FORMATS)(request.evaluations)
    trained = load_trained(run, request.checkpoint, request.weights, request.trust)
    place = request.output or trained.run / "exported" / form.file_name
    make_folder(place.parent)
    remarks = form.write(trained, place)
    print(f"wrote {place} ({_size(place)}): {describe(trained)}")
    for line in remarks:
        print(line)
    if not request.check:
        return None
    difference = compare(trained, form.read(place, trained))
    print(difference)
    return difference


def describe(trained: Trained) -> str:
    """The network in one line."""
    shape = ", ".join(map(str, trained.image_shape))
    return (
        f"{trained.config.model.name} after {trained.step} steps ({trained.weights}), "
        f"images [batch, {shape}] in [0, 1] to {trained.num_classes} logits"
    )


def _size(place: Path) -> str:
    files = [place] if place.is_file() else [p for p in place.rglob("*") if p.is_file()]
    return f"{sum(file.stat().st_size for file in files) / 1e6:.2f} MB"
