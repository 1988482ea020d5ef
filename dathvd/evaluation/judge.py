"""Which samples a model gets right under each of several attacks, over all workers.

The test set is cut into parts that depend on the batch size alone; the parts go round
robin to the workers. Random starts belong to the sample (``dathvd.noise``). Both
together make the result independent of the number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dathvd import heartbeat
from dathvd.attacks.network import in_mode
from dathvd.attacks.probes import Probe
from dathvd.data import ImageSet
from dathvd.evaluation.store import Part, Store
from dathvd.noise import SampleNoise, mix_seed
from dathvd.runtime import Runtime, from_root, sum_over_workers, together

# seeds of different uses must differ: evaluation never repeats training's starts
_EVALUATION = 0xE7A1

CLEAN = "clean"
"""The key of the unattacked images."""


@dataclass(frozen=True)
class Judge:
    """Runs probes on samples, each worker on its own parts.

    Args:
        images: the test set, equal on all workers.
        runtime: this worker's place.
        batch_size: samples of one part, judged at once.
        seed: of the random starts.
        max_samples: takes the first so many samples; 0 takes all.
        store: keeps what is judged, and gives back what was before.
        only_survivors: a probe sees the samples that held under all probes before it;
            the others count as failed.
        on_part: called with (probes done here, probes of this worker in all).
    """

    images: ImageSet
    runtime: Runtime
    batch_size: int
    seed: int
    max_samples: int = 0
    store: Store | None = None
    only_survivors: bool = False
    on_part: Callable[[int, int], None] | None = None

    @property
    def num_samples(self) -> int:
        """How many samples are judged."""
        return min(len(self.images), self.max_samples or len(self.images))

    def __call__(self, model: nn.Module, probes: Mapping[str, Probe]) -> Tensor:
        """Bool ``[probes, num_samples]``, the same on every worker.

        Args:
            model: from images in [0, 1] to logits; left as it was.
            probes: by a key that tells them apart in the store.
        """
        parts = self._parts(probes)
        flags = torch.zeros(len(probes), self.num_samples, dtype=torch.int32)
        known: list[Part] = []
        todo: list[Part] = []
        for part in parts:
            (known if probes.keys() <= part.right.keys() else todo).append(part)
        mine = todo[self.runtime.rank :: self.runtime.size]
        total = sum(len(probes.keys() - part.right.keys()) for part in mine)
        done = 0
        with in_mode(model, training=False):
            for part in mine:
                heartbeat.beat(heartbeat.EVALUATING)
                for _ in self._judge(model, part, probes):
                    done += 1
                    if self.on_part is not None:
                        self.on_part(done, total)
        heartbeat.rest()  # others may have more to do
        for part in [*mine, *(known if self.runtime.is_root else [])]:
            columns = [part.right[key] for key in probes]
            flags[:, part.start : part.stop] = torch.tensor(columns, dtype=torch.int32)
        return sum_over_workers(self.runtime, flags, "evaluation").bool()

    def _parts(self, probes: Mapping[str, Probe]) -> list[Part]:
        """All parts, with what the store knows of them, equal on all workers."""
        known: dict[int, Part] = {}
        if self.store is not None:
            store, root = self.store, self.runtime.is_root
            together(self.runtime, lambda: store.open() if root else None)
            read = together(self.runtime, lambda: store.read() if root else [])
            sent = from_root(self.runtime, [asdict(part) for part in read])
            known = {fields["start"]: Part(**fields) for fields in sent}
        parts = []
        for start in range(0, self.num_samples, self.batch_size):
            stop = min(start + self.batch_size, self.num_samples)
            part = known.get(start)
            fits = part is not None and part.stop == stop
            parts.append(part if part and fits else Part(start, stop))
        return parts

    def _judge(
        self, model: nn.Module, part: Part, probes: Mapping[str, Probe]
    ) -> Iterator[None]:
        """Fill in what the part lacks, a probe at a time."""
        device = self.runtime.device
        indices = torch.arange(part.start, part.stop)
        images = self.images.batch(indices).to(device).float().div_(255)
        labels = self.images.labels[indices].to(device)
        noise = SampleNoise(mix_seed(self.seed, _EVALUATION), indices.to(device))
        alive = torch.ones(len(indices), dtype=torch.bool, device=device)
        for key, probe in probes.items():
            if key not in part.right:
                left = alive.nonzero().squeeze(1)
                held = torch.zeros_like(alive)
                if len(left):
                    held[left] = probe(
                        model, images[left], labels[left], noise.select(left)
                    )
                part.right[key] = held.tolist()
                if self.store is not None:
                    self.store.write(part)
                yield
            if self.only_survivors:
                alive &= torch.tensor(part.right[key], device=device)
