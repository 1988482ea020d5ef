"""The network as the training passes run it: its precision and memory layout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dathvd.config import TrainConfig
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
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        bf16: bool = False,
        channels_last: bool = False,
        compiled: bool = False,
        checkpointed: bool = False,
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

    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits of a batch."""
        if self._channels_last and images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with recomputed(self._blocks):
            if not self._bf16:
                return self._run[0](images)
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                logits = self._run[0](images)
        return logits.float()


def lay_out(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Put the weights into the layout that training wants on the model's device."""
    if _channels_last(model, config):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def training_pass(model: nn.Module, config: TrainConfig) -> nn.Module:
    """The model for training passes; itself where nothing is asked for."""
    bf16, layout = config.precision == "bf16", _channels_last(model, config)
    checkpointed = config.activation_checkpointing
    if not (bf16 or layout or config.compile or checkpointed):
        return model
    return TrainingPass(
        model,
        bf16=bf16,
        channels_last=layout,
        compiled=config.compile,
        checkpointed=checkpointed,
    )


def _channels_last(model: nn.Module, config: TrainConfig) -> bool:
    weights = model.parameters()
    return config.channels_last and any(weight.is_cuda for weight in weights)
