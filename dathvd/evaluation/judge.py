"""Which samples a model gets right under each of several attacks, over all workers.

Each attack is a round: the samples that it is for are cut into parts, which go round
robin to the workers, and all workers learn what held. An attack on what another one
has left finds its samples regrouped: in full parts, and equally many for each worker.
Parts do not depend on the number of workers, and random starts belong to the sample
(``dathvd.noise``): the result is the same on any number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

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
        seconds: is given the time of each part that this worker judges.
    """

    images: ImageSet
    runtime: Runtime
    batch_size: int
    seed: int
    max_samples: int = 0
    store: Store | None = None
    only_survivors: bool = False
    on_part: Callable[[int, int], None] | None = None
    seconds: list[float] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        """How many samples are judged."""
        return min(len(self.images), self.max_samples or len(self.images))

    def __call__(
        self,
        model: nn.Module,
        probes: Mapping[str, Probe],
        after: Mapping[str, str] | None = None,
    ) -> Tensor:
        """Bool ``[probes, num_samples]``, the same on every worker.

        Args:
            model: from images in [0, 1] to logits; left as it was.
            probes: by a key that tells them apart in the store.
            after: for a key, the earlier key whose survivors alone it is for: the
                others count as failed.
        """
        known = self._known()
        held: dict[str, Tensor] = {}
        every = torch.ones(self.num_samples, dtype=torch.bool)
        rounds = {key: self._mine(key, self._parts(every, known)) for key in probes}
        done = 0
        with in_mode(model, training=False):
            for key, probe in probes.items():
                alive = self._alive(key, held, after or {})
                parts = self._parts(alive, known)
                rounds[key] = self._mine(key, parts)
                total = done + sum(len(rounds[k]) for k in probes if k not in held)
                for part in rounds[key]:
                    heartbeat.beat(heartbeat.EVALUATING)
                    began = time.perf_counter()
                    self._judge(model, part, key, probe, alive)
                    self.seconds.append(time.perf_counter() - began)
                    done += 1
                    if self.on_part is not None:
                        self.on_part(done, total)
                heartbeat.rest()  # others may have more to do
                held[key] = self._together(key, parts, rounds[key])
        return torch.stack(list(held.values()))

    def _alive(
        self, key: str, held: Mapping[str, Tensor], after: Mapping[str, str]
    ) -> Tensor:
        """The samples that a probe is for, bool ``[num_samples]``."""
        if self.only_survivors and held:
            return torch.stack(list(held.values())).all(dim=0)
        if key in after:
            return held[after[key]]
        return torch.ones(self.num_samples, dtype=torch.bool)

    def _known(self) -> dict[tuple[int, int], Part]:
        """What the store holds, by the range of samples, equal on all workers."""
        if self.store is None:
            return {}
        store, root = self.store, self.runtime.is_root
        together(self.runtime, lambda: store.open() if root else None)
        read = together(self.runtime, lambda: store.read() if root else [])
        sent = from_root(self.runtime, [asdict(part) for part in read])
        parts = [Part(**fields) for fields in sent]
        return {(part.start, part.stop): part for part in parts}

    def _parts(self, alive: Tensor, known: dict[tuple[int, int], Part]) -> list[Part]:
        """The parts of a round; a range has the same part in every round."""
        if bool(alive.all()):
            starts = range(0, self.num_samples, self.batch_size)
            stops = [*starts[1:], self.num_samples]
            ranges = list(zip(starts, stops, strict=True))
        else:
            ranges = regrouped(alive, self.batch_size)
        return [known.setdefault(place, Part(*place)) for place in ranges]

    def _mine(self, key: str, parts: Sequence[Part]) -> list[Part]:
        """This worker's parts of those that are not judged yet."""
        todo = [part for part in parts if key not in part.right]
        return todo[self.runtime.rank :: self.runtime.size]

    def _together(
        self, key: str, parts: Sequence[Part], mine: Sequence[Part]
    ) -> Tensor:
        """What held in a round, bool ``[num_samples]``, on all workers."""
        flags = torch.zeros(self.num_samples, dtype=torch.int32)
        before = [part for part in parts if key in part.right and part not in mine]
        for part in [*mine, *(before if self.runtime.is_root else [])]:
            flags[part.start : part.stop] = torch.tensor(part.right[key]).int()
        return sum_over_workers(self.runtime, flags, "evaluation").bool()

    def _judge(
        self, model: nn.Module, part: Part, key: str, probe: Probe, alive: Tensor
    ) -> None:
        """Fill in what one probe says of a part."""
        device = self.runtime.device
        indices = alive[part.start : part.stop].nonzero().squeeze(1) + part.start
        images = self.images.batch(indices).to(device).float().div_(255)
        labels = self.images.labels[indices].to(device)
        noise = SampleNoise(mix_seed(self.seed, _EVALUATION), indices.to(device))
        held = torch.zeros(part.stop - part.start, dtype=torch.bool)
        held[indices - part.start] = probe(model, images, labels, noise).cpu()
        part.right[key] = held.tolist()
        if self.store is not None:
            self.store.write(part)


def regrouped(alive: Tensor, size: int) -> list[tuple[int, int]]:
    """Ranges of samples with equally many of those that are alive.

    There is a power of two of them, so that 2, 4, 8, … workers have equal shares, and
    none has more than ``size`` alive. Ranges without any are left out.

    Args:
        alive: bool ``[num_samples]``.
        size: samples at once at most.
    """
    places = alive.nonzero().squeeze(1).tolist()
    if not places:
        return []
    count = 1
    while count * size < len(places):
        count *= 2
    firsts = [places[len(places) * part // count] for part in range(count)]
    return list(zip(firsts, [*firsts[1:], places[-1] + 1], strict=True))
