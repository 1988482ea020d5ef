"""A program of ``torch.export``: ``torch.export.load(FILE).module()`` in Python."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import ClassVar

import torch

from dathvd.export.form import Form, Function, Trained, function_of
from dathvd.files import write_bytes


class Program(Form):
    """Needs torch alone to run, and none of dathvd's classes.

    Read files of strangers in another form: ``torch.export.load`` may run code that a
    file holds.
    """

    file_name: ClassVar[str] = "model.pt2"

    def write(self, trained: Trained, place: Path) -> list[str]:
        # a batch of one would be taken for the only size
        images = torch.zeros(2, *trained.image_shape)
        batch = torch.export.Dim("batch", min=1)
        data = io.BytesIO()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                trained.model, (images,), dynamic_shapes=({0: batch},)
            )
            torch.export.save(program, data)
        write_bytes(place, data.getvalue())
        return []

    def read(self, place: Path, trained: Trained) -> Function:
        return function_of(torch.export.load(str(place)).module())
