"""What one point of a speed-up sweep has measured."""

from __future__ import annotations

from dataclasses import dataclass, field

LOCAL = "local"
"""The codec of a point without any communication: each worker trains on its own."""


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One number of workers, codec, exchange and overlap mode, timed over many steps.

    Seconds are medians over steps; of each step, the worker counts that the others
    waited for. ``data``, ``attack``, ``update`` and ``exposed`` are its parts.
    """

    num_workers: int
    codec: str
    """A codec's name, or ``local`` for a step without any communication."""
    exchange: str
    overlap: str
    batch_size_per_worker: int
    step_seconds: float
    step_spread: float
    """Half the distance between the quartiles of the steps' seconds."""
    compute_seconds: float
    """The same step without any communication, interleaved with this one."""
    data_seconds: float
    attack_seconds: float
    update_seconds: float
    """Forward, backward, encoding, decoding and the optimizer's update."""
    exposed_seconds: float
    """Seconds of a step spent waiting for gradients with nothing else to do."""
    codec_seconds: float = 0.0
    """Of the attack's and the update's seconds, those of encoding and decoding."""
    background_seconds: float = 0.0
    """Processor time of the threads beside the one that trains, which takes its core
    where a worker has one: with one thread a worker, Horovod's."""
    bytes_sent: float
    """Bytes that one worker sends in one step, by the exchanger's ledger."""
    kernel_bytes: float | None = None
    """What left a host by its interfaces' counters, without headers, over the workers
    of a host: the same bytes with one worker a host. None where there is one host."""
    traffic: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Per collective (``allreduce``, ``allgather``, ``alltoall``): calls and bytes sent
    by one worker in one step."""
    num_steps: int
    hosts: int
    oversubscribed: bool
    """More workers than cores (times their threads) or GPUs."""
    device: str
    rate: str | None = None
    """The rate of the rig's links; None on real hosts."""

    @property
    def images_per_second(self) -> float:
        """Images that all workers together train in a second."""
        return self.num_workers * self.batch_size_per_worker / self.step_seconds

    @property
    def ratio(self) -> float:
        """The step as a multiple of the same step without any communication."""
        return self.step_seconds / self.compute_seconds

    @property
    def is_local(self) -> bool:
        """Whether nothing was exchanged."""
        return self.codec == LOCAL
