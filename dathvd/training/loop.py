"""The loop over steps: data, learning rate, step, report, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dathvd.optim import learning_rate
from dathvd.runtime import Runtime, StopRequest
from dathvd.training.batches import BatchPlan
from dathvd.training.metrics import MetricsLog
from dathvd.training.state import TrainingState


@dataclass
class Loop:
    """Runs a state to its last step.

    ``finish`` returns True when all steps are done, False when the run was asked to
    leave before (a signal, or ``train.max_steps``); either way the last step is saved.
    """

    state: TrainingState
    plan: BatchPlan
    log: MetricsLog
    run: Path
    runtime: Runtime

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.state.config.train.epochs * self.plan.steps_per_epoch

    def finish(self) -> bool:
        """Train until the end or until asked to leave."""
        config, state = self.state.config, self.state
        stop = StopRequest(self.runtime)
        last = min(self.num_steps, config.train.max_steps or self.num_steps)
        batches = list(self.plan.step(state.step)) if state.step < last else []
        while state.step < last:
            lr = self.learning_rate(state.step)
            more = state.step + 1 < self.num_steps
            following = list(self.plan.step(state.step + 1)) if more else []
            overlap = config.train.overlap == "attack"
            for _ in range(state.trainer.attack.replays):
                state.trainer.step(batches, lr, following if overlap else ())
            state.step += 1
            batches = following
            asked = stop.poll()
            if state.step % config.train.log_every == 0 or state.step == last or asked:
                self._report(lr)
            if asked or state.step == last or self._checkpoint_is_due():
                state.save(self.run, self.runtime)
            if asked and state.step < last:
                break
        stop.close()
        return state.step == self.num_steps

    def learning_rate(self, step: int) -> float:
        """The rate of an update, a pure function of the step."""
        config = self.state.config
        return learning_rate(
            config.optimizer,
            config.schedule,
            step=step,
            steps_per_epoch=self.plan.steps_per_epoch,
            num_steps=self.num_steps,
            batch_size=config.train.batch_size,
        )

    def _checkpoint_is_due(self) -> bool:
        every = self.state.config.train.checkpoint_every * self.plan.steps_per_epoch
        return every > 0 and self.state.step % every == 0

    def _report(self, lr: float) -> None:
        state = self.state
        exchanger = state.exchanger
        traffic = exchanger.ledger.snapshot(reset=True)
        extra: dict[str, Any] = {
            "skipped_steps": exchanger.skipped,
            "bytes_sent": sum(entry["sent_bytes"] for entry in traffic.values()),
            "exposed_seconds": sum(
                entry["waited_seconds"] for entry in traffic.values()
            ),
            "traffic": traffic,
        }
        self.log.report(
            state.trainer.totals.sums,
            step=state.step,
            epoch=state.step / self.plan.steps_per_epoch,
            lr=lr,
            extra=extra,
        )
