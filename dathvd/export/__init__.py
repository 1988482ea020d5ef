"""Trained networks in forms that other programs read.

Every form takes images ``[batch, channels, height, width]`` float32 in [0, 1] and gives
logits ``[batch, classes]``: the network's normalisation is a part of it.
"""

from dathvd.export.run import FORMATS, ExportRequest, export_run
from dathvd.export.tensors import load_safetensors

__all__ = ["FORMATS", "ExportRequest", "export_run", "load_safetensors"]
