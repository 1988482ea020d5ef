"""The network as the training passes run it: its precision and memory layout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dathvd.config import TrainConfig
from dathvd.training.convolutions import filtered, filtered_layers
from dathvd.training.recompute import recomputed, repeated_blocks


class TrainingPass(nn.Module):
    """A network whose forward pass runs in another precision or layout.

    Weights, their gradients and batch norm's statistics stay float32 (Micikevicius et
    al., Mixed Precision Training, ICLR 2018; bfloat16 has float32's range, so that no
    loss is scaled). Logits are float32, hence the loss too.

    Args:
        network: from images to logits; its weights are the ones trained.
        bf16: convolutions and matrix products in bfloat16.
        channels_last: images in channels-last layout; the weights should be, too.
        compiled: by ``torch.compile``.
        checkpointed: blocks keep their inputs alone, see ``recomputed``.
        winograd: convolutions on CPUs by compiled kernels, see ``filtered``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        bf16: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        checkpointed: bool = False,
        winograd: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        run: Callable[[Tensor], Tensor] = network
        if compiled:
            run = torch.compile(network)
        # in a tuple: as a module it would hold the weights under other names
        self._run = (run,)
        self._bf16 = bf16
        self._channels_last = channels_last
        self._blocks = tuple(repeated_blocks(network)) if checkpointed else ()
        self._winograd = winograd

    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits of a batch."""
        if self._channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = torch.bfloat16 if self._bf16 else torch.float32
        layers = filtered_layers(self.network, dtype) if self._winograd else ()
        filtering = partial(filtered, layers, dtype)
        with filtering(), recomputed(self._blocks, filtering):
            if not self._bf16:
                return self._run[0](images)
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                logits = self._run[0](images)
        return logits.float()


def lay_out(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Put the weights into the layout that training wants on the model's device."""
    if config.channels_last and _is_on_gpu(model):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def training_pass(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The model for training passes; itself where nothing is asked for."""
    bf16, on_gpu = config.precision == "bf16", _is_on_gpu(model)
    dtype = torch.bfloat16 if bf16 else torch.float32
    winograd = config.winograd and not config.compile and not on_gpu
    winograd = winograd and bool(filtered_layers(model, dtype))
    layout = config.channels_last and (on_gpu or bf16) or winograd
    checkpointed = config.activation_checkpointing
    if not (bf16 or layout or config.compile or checkpointed):
        return model
    return TrainingPass(
        model,
        bf16=bf16,
        channels_last=layout,
        compiled=config.compile,
        checkpointed=checkpointed,
        winograd=winograd,
    )


def _is_on_gpu(model: nn.Module) -> bool:
    return any(weight.is_cuda for weight in model.parameters())
