"""What this worker sent, and how long that took."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field


@dataclass
class Entry:
    """Sums over the collectives of one kind that carried one codec's payloads."""

    calls: int = 0
    """Collectives submitted."""
    handed_bytes: int = 0
    """Bytes of the tensors handed to Horovod."""
    sent_bytes: float = 0.0
    """Bytes that this worker sends: those handed over times the collective's factor."""
    in_flight_seconds: float = 0.0
    """Seconds from submission until the collective was seen to be complete. It is an
    upper bound, as completion is polled."""
    waited_seconds: float = 0.0
    """The part of it in which the caller had nothing to do but wait (exposed)."""

    def clear(self) -> None:
        """Back to zero, in place: collectives under way hold the entry."""
        vars(self).update(vars(Entry()))


@dataclass
class Ledger:
    """Traffic of one worker by collective and codec, such as ``alltoall/sign``.

    With N workers a ring allreduce sends 2(N−1)/N of the bytes handed over, an
    allgather N−1 times, an alltoall all but the worker's own part; one worker sends
    nothing.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    codec_seconds: float = 0.0
    """Encoding, decoding and submitting; on a GPU only launching them."""

    def entry(self, collective: str, codec: str) -> Entry:
        """The sums of that collective and codec, made on first use."""
        return self.entries.setdefault(f"{collective}/{codec}", Entry())

    @property
    def sent_bytes(self) -> float:
        """Bytes sent by this worker since the last reset."""
        return sum(entry.sent_bytes for entry in self.entries.values())

    @property
    def waited_seconds(self) -> float:
        """Seconds of exposed communication since the last reset."""
        return sum(entry.waited_seconds for entry in self.entries.values())

    def snapshot(self, reset: bool = False) -> dict[str, dict[str, float]]:
        """The sums by ``collective/codec``; ``reset`` then starts them anew.

        What is in flight then enters its bytes before and its seconds after the reset.
        """
        taken = {key: asdict(entry) for key, entry in self.entries.items()}
        if reset:
            for entry in self.entries.values():
                entry.clear()
            self.codec_seconds = 0.0
        return taken
