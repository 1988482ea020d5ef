"""The loop over steps: data, learning rate, step, report, checkpoint."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from dathvd.distributed import PASS_TRAFFIC
from dathvd.noise import mix_seed
from dathvd.optim import learning_rate, named_trust_ratios
from dathvd.runtime import StopRequest, sum_over_workers
from dathvd.training.batches import Batch
from dathvd.training.hot import HotState
from dathvd.training.metrics import MetricsLog
from dathvd.training.prepare import Job
from dathvd.training.saver import Saver
from dathvd.training.state import TrainingState
from dathvd.training.watch import Watch

_NETWORK = 0x2E  # seeds of different uses must differ


def step_seed(seed: int, step: int, replay: int) -> int:
    """What the network's own random numbers follow from in one update of a run."""
    return mix_seed(seed, _NETWORK, step, replay)


@dataclass
class Loop:
    """Takes a state to its last step."""

    state: TrainingState
    job: Job
    log: MetricsLog
    hot: HotState
    """Keeps states in memory for a restart, where the launcher asks for it."""
    images: int = 0
    """Images trained on by all workers, those of steps that were taken back too."""
    data_seconds: float = 0.0
    """Seconds since the last report in which the network waited for images."""

    def run(self) -> None:
        """Train until the last step, or until asked to leave before it.

        A signal asks, or ``train.max_steps``. Either way the last step taken is saved.
        """
        state = self.state
        saver = Saver(state, self.job.folder, self.job.runtime)
        watch = Watch(state, self.job, self.log, saver)
        stop = StopRequest(self.job.runtime)
        watch.look_first()
        last = state.config.train.max_steps or self.job.num_steps
        last = min(last, self.job.num_steps)
        batches = self._batches(state.step) if state.step < last else []
        asked = False
        while state.step < last and not asked:
            lr = self.learning_rate(state.step)
            following = self._batches(state.step + 1)
            self._train_on(batches, following, lr)
            batches = following
            self._end_epoch()
            self._check_workers()
            asked = stop.poll(*saver.votes())
            written, late = stop.votes
            saver.publish_if_written(written)
            watch.look()
            leaves = asked or state.step == last
            regular = state.step % state.config.train.log_every == 0
            if leaves or regular or watch.wants_row:
                self._report(lr, watch.numbers())
            if watch.answer():
                batches = self._batches(state.step)
                self.hot.forget()
            due = late or watch.wants_checkpoint or self._checkpoint_is_due()
            if leaves or due:
                saver.begin()
            else:
                self.hot.keep_if_due()
        saver.finish()
        self.hot.close()
        stop.close()

    def learning_rate(self, step: int) -> float:
        """The rate of an update, a pure function of the step."""
        config = self.state.config
        return learning_rate(
            config.optimizer,
            config.schedule,
            step=step,
            steps_per_epoch=self.job.plan.steps_per_epoch,
            num_steps=self.job.num_steps,
            batch_size=config.train.batch_size,
        )

    def _batches(self, step: int) -> list[Batch]:
        """This worker's batches of a step; none after the last."""
        began = time.perf_counter()
        batches = list(self.job.plan.step(step)) if step < self.job.num_steps else []
        self.data_seconds += time.perf_counter() - began
        return batches

    def _train_on(
        self, batches: list[Batch], following: list[Batch], lr: float
    ) -> None:
        """One step: an update, or as many as a free attack replays."""
        state, config = self.state, self.state.config
        coming = following if config.train.overlap == "attack" else []
        for replay in range(state.trainer.attack.replays):
            seed = step_seed(config.seed, state.step, replay)
            state.trainer.step(batches, lr, coming, seed)
        self.images += self.job.plan.num_images(state.step)
        state.step += 1

    def _end_epoch(self) -> None:
        """At an epoch's end, look back on it with all workers, and average weights."""
        state, job = self.state, self.job
        epoch, left = divmod(state.step, job.plan.steps_per_epoch)
        if left:
            return
        start = state.config.train.swa_start
        if start is not None and epoch > start:
            state.trainer.averages["swa"].update()
        if state.class_means is not None:
            state.class_means.end_epoch(
                state.num_classes,
                lambda sums: sum_over_workers(job.runtime, sums, "class means"),
            )

    def _check_workers(self) -> None:
        """Now and then, refuse workers whose weights have come apart."""
        every, step = self.state.config.train.check_every, self.state.step
        if every and step % every == 0:
            self.state.check()

    def _checkpoint_is_due(self) -> bool:
        every = self.state.config.train.checkpoint_every
        steps = every * self.job.plan.steps_per_epoch
        return every > 0 and self.state.step % steps == 0

    def _report(self, lr: float, more: dict[str, float]) -> None:
        state = self.state
        exchanger = state.exchanger
        ledgers = (exchanger.ledger, PASS_TRAFFIC)
        traffic = {k: v for each in ledgers for k, v in each.snapshot(True).items()}
        extra: dict[str, Any] = {
            "skipped_steps": exchanger.skipped,
            "bytes_sent": sum(entry["sent_bytes"] for entry in traffic.values()),
            "exposed_seconds": sum(
                entry["waited_seconds"] for entry in traffic.values()
            ),
            "traffic": traffic,
            "data_seconds": self.data_seconds,
            **more,
        }
        self.data_seconds = 0.0
        if self.job.runtime.is_root:  # equal on all ranks, and rank 0 alone writes
            named = state.trainer.model.named_parameters()
            ratios = named_trust_ratios(state.trainer.optimizer, named)
            extra |= {"trust_ratios": ratios} if ratios else {}
        self.log.report(
            state.trainer.totals.sums,
            step=state.step,
            epoch=state.step / self.job.plan.steps_per_epoch,
            lr=lr,
            extra=extra,
        )
