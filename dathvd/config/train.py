"""The run: how long, how much at once, what is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dathvd.config.base import Count, FromList, Natural, Section
from dathvd.config.guard import GuardConfig
from dathvd.config.stationarity import StationarityConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Section):
    """The training loop."""

    epochs: Count = 40
    """Passes over the training set."""
    batch_size: Count = 64
    """Images per step over all workers together."""
    backward_passes_per_step: Count = 1
    """Parts into which a step's batch is cut, one backward pass each, to save memory;
    one exchange and one update follow them."""
    overlap: Literal["none", "attack"] = "none"
    """attack: the attack on the next batch runs while gradients travel, on weights that
    are one step old."""
    batch_norm: Literal["averaged", "local", "synchronised"] = "averaged"
    """What batch norm sees of other workers: averaged (each normalises by its own
    samples, running statistics are averaged before evaluation and saving), local (the
    same, but rank 0's own statistics are taken), synchronised (all normalise by the
    samples of all; two more messages a layer and pass)."""
    ema_decay: Annotated[Decay | tuple[Decay, ...], FromList] = 0.0
    """Decay of an exponential moving average of the weights, in [0, 1); it is saved and
    evaluated beside the raw weights. 0 switches it off, 0.999 averages about the last
    1,000 updates. Of a list of decays, and of swa_start's mean, the average counts that
    is the most robust one on held-out training images, which are the guard's
    (guard.num_samples, guard.num_steps)."""
    swa_start: Natural | None = None
    """Epochs before stochastic weight averaging begins: from then on the weights at
    each epoch's end weigh alike in a mean (Izmailov et al., UAI 2018), saved and
    evaluated as a moving average is. Null leaves it out."""
    average_batch_norm: Literal["averaged", "anew"] | None = None
    """Batch norm's statistics of averaged weights: averaged as the weights are, or
    taken anew from 10,240 clean training images by all workers whenever the average is
    judged or saved. Null is anew with swa_start, else averaged."""
    guard: GuardConfig = GuardConfig()
    """What watches for catastrophic overfitting."""
    stationarity: StationarityConfig = StationarityConfig()
    """What measures the objective's gradient."""
    select: Literal["last", "best"] = "last"
    """best: the checkpoint of the epoch with the highest robust accuracy on held-out
    training images is kept beside the newest ones, and judged too. The images and their
    attack are the guard's (guard.num_samples, guard.num_steps), whatever its action.
    Robust overfitting makes the last epoch worse than an earlier one (Rice, Wong and
    Kolter, ICML 2020). The weights that choose are the raw ones."""
    checkpoint_every: Natural = 5
    """Epochs between checkpoints; 0 keeps the last one only."""
    checkpoint_minutes: Annotated[float, Field(ge=0)] = 10.0
    """Minutes after which a checkpoint is written at any rate; 0 leaves that out."""
    keep_checkpoints: Count = 2
    """How many of the newest checkpoints are kept."""
    check_every: Natural = 50
    """Steps between checks that all workers hold the same weights, bit by bit, as they
    also do before each checkpoint; 0 leaves only those."""
    log_every: Count = 5
    """Steps between rows of metrics; between them nothing waits for the device."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU of this local rank where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the convolutions and matrix products of the training passes in
    bfloat16; weights, gradients, batch-norm statistics and the loss stay float32."""
    emulate_bf16: bool = False
    """precision bf16 of the training passes or the attack is not refused on CPUs
    without instructions for it, where it is many times slower than fp32."""
    channels_last: bool = True
    """On GPUs, images and convolutions are in channels-last layout; on CPUs, images
    with bf16."""
    winograd: bool = True
    """On CPUs with AVX2 or AVX-512, 3x3 convolutions of the training passes and their
    gradients take 36 products where 144 were (Lavin and Gray, CVPR 2016; multiples of
    32 channels, not beside compile). In fp32 they round a few times more coarsely than
    the direct sum; in bf16 by 1 % of a layer's deviation, where the direct sum has
    0.3 %; with AMX bf16 sums are direct, in own loops."""
    tf32: bool = True
    """On GPUs, float32 convolutions and matrix products may round their factors to
    TF32 (10 bits of mantissa)."""
    compile: bool = False
    """torch.compile of the training passes; up to a minute at the first step. The
    gradients of a pass then come all at once: no exchange starts inside it."""
    activation_checkpointing: bool = False
    """Training passes keep the inputs of the network's blocks alone and compute the
    rest anew in the backward pass: less memory for a third more work, same bits."""
    deterministic: bool = True
    """On GPUs, only algorithms of cuDNN that give the same bits each time; false lets
    cuDNN time all that there are and take the fastest."""
    max_steps: Natural = 0
    """Leave after this many steps with a checkpoint; 0 trains to the end. For trials:
    the same command without it goes on."""

    @property
    def probes(self) -> bool:
        """Whether training images are held out and attacked after each epoch."""
        watched = self.guard.action != "none" or self.select == "best"
        return watched or len(self.averages) > 1

    @property
    def averages(self) -> dict[str, float | None]:
        """The averages of the weights by name, with their decays; None weighs all
        alike."""
        decays = self.ema_decay
        found: dict[str, float | None] = {}
        if isinstance(decays, tuple):
            found = {f"ema-{decay}": decay for decay in decays}
        elif decays:  # ``ema`` names the best one where there are several
            alone = self.swa_start is None
            found = {"ema" if alone else f"ema-{decays}": decays}
        return found if self.swa_start is None else {**found, "swa": None}

    @property
    def takes_statistics_anew(self) -> bool:
        """Whether batch norm's statistics of averages are taken anew."""
        how = self.average_batch_norm
        return how == "anew" or (how is None and self.swa_start is not None)

    @model_validator(mode="after")
    def _averages_are_some(self) -> TrainConfig:
        decays = self.ema_decay
        if isinstance(decays, tuple) and (
            not decays or 0.0 in decays or len(set(decays)) < len(decays)
        ):
            raise ValueError("ema_decay: expected different decays above 0")
        if self.swa_start is not None and self.swa_start >= self.epochs:
            raise ValueError(
                f"swa_start: no epoch follows the first {self.swa_start} of "
                f"{self.epochs}; set it below epochs"
            )
        return self
