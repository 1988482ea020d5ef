"""The ways in which the model may run during an attack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Forward:
    """The model's mode, and what may be done to run it faster.

    Layout, folding, Winograd's filtering and compiling leave the function as it is, up
    to rounding. They apply in eval mode, to models whose graph does not depend on
    values (``torch.fx`` traces them); others run as they are, and a warning says so.
    """

    training: bool = False
    """Train mode: batch norm by the batch's own statistics."""
    bf16: bool = False
    """Convolutions and matrix products in bfloat16 (autocast); images, loss and steps
    keep their own precision."""
    channels_last: bool = False
    """Images and convolutions in channels-last layout."""
    fold_batch_norm: bool = False
    """Batch norm folded into the convolution before it."""
    winograd: bool = False
    """On CPUs, convolutions by the kernels of ``dathvd.convolutions``, such as
    Winograd's minimal filtering, which take over ReLU, residuals and, beside
    fold_batch_norm, batch norm before a ReLU; not beside compile."""
    compile: bool = False
    """``torch.compile``; costs up to a minute at the first attack."""
    cuda_graph: bool = False
    """On GPUs, the steps of a training attack on weights of its own, which another of
    these options asks for, are captured and replayed."""

    @property
    def wants_twin(self) -> bool:
        """Whether some option needs weights of the attack's own."""
        asked = self.channels_last or self.fold_batch_norm or self.winograd
        return (asked or self.compile or self.bf16) and not self.training
