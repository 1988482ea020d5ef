"""ONNX, for onnxruntime, TensorRT, OpenVINO and others."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from dathvd.errors import UserError
from dathvd.export.form import Form, Function, Trained, need
from dathvd.files import write_bytes

MOST_BYTES = 2**31 - 1
"""Of a file of ONNX: protobuf holds no more in one message."""


class Onnx(Form):
    """One file with the weights in it; input ``images``, output ``logits``."""

    file_name: ClassVar[str] = "model.onnx"

    def write(self, trained: Trained, place: Path) -> list[str]:
        need("onnxscript")
        onnx = need("onnx")
        state = trained.model.state_dict()
        size = sum(tensor.nbytes for tensor in state.values())
        if size > MOST_BYTES:
            raise UserError(
                f"--to onnx: the weights are {size / 1e9:.1f} GB, one file holds 2; "
                "take torch or safetensors"
            )
        images = torch.zeros(2, *trained.image_shape)
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                trained.model,
                (images,),
                dynamo=True,
                dynamic_shapes=({0: "batch"},),
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
        onnx.checker.check_model(proto)
        write_bytes(place, proto.SerializeToString())
        return []

    def read(self, place: Path, trained: Trained) -> Function:
        runtime = need("onnxruntime")
        session = runtime.InferenceSession(
            str(place), providers=["CPUExecutionProvider"]
        )

        def run(images: Tensor) -> Tensor:
            (logits,) = session.run(["logits"], {"images": images.numpy()})
            return torch.from_numpy(logits)

        return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converter tells of each of its passes; its errors are exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
