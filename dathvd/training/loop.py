"""The loop over steps: data, learning rate, step, report, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dathvd.distributed import PASS_TRAFFIC, check_weights
from dathvd.noise import mix_seed
from dathvd.optim import learning_rate, named_trust_ratios
from dathvd.runtime import Runtime, StopRequest
from dathvd.training.batches import BatchPlan
from dathvd.training.metrics import MetricsLog
from dathvd.training.state import TrainingState

_NETWORK = 0x2E  # seeds of different uses must differ


def step_seed(seed: int, step: int, replay: int) -> int:
    """What the network's own random numbers follow from in one update of a run."""
    return mix_seed(seed, _NETWORK, step, replay)


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
    images: int = 0
    """Images trained on by all workers, those of steps that were taken back too."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.state.config.train.epochs * self.plan.steps_per_epoch

    def finish(self) -> bool:
        """Train until the end or until asked to leave."""
        config, state = self.state.config, self.state
        stop = StopRequest(self.runtime)
        self._look_first()
        last = min(self.num_steps, config.train.max_steps or self.num_steps)
        batches = list(self.plan.step(state.step)) if state.step < last else []
        while state.step < last:
            lr = self.learning_rate(state.step)
            more = state.step + 1 < self.num_steps
            following = list(self.plan.step(state.step + 1)) if more else []
            overlap = config.train.overlap == "attack"
            for replay in range(state.trainer.attack.replays):
                seed = step_seed(config.seed, state.step, replay)
                state.trainer.step(batches, lr, following if overlap else (), seed)
            self.images += self.plan.num_images(state.step)
            state.step += 1
            batches = following
            self._check_workers()
            asked = stop.poll()
            collapsed = self._look()
            if state.step % config.train.log_every == 0 or state.step == last or asked:
                self._report(lr)
            if collapsed and self._answer_collapse():
                batches = list(self.plan.step(state.step))
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

    def _check_workers(self) -> None:
        """Now and then, refuse workers whose weights have come apart."""
        every, step = self.state.config.train.check_every, self.state.step
        if every and step % every == 0:
            check_weights(self.state.trainer.model, f"step {step}")

    def _checkpoint_is_due(self) -> bool:
        state = self.state
        every = state.config.train.checkpoint_every * self.plan.steps_per_epoch
        due = every > 0 and state.step % every == 0
        guard = state.guard
        return due or (
            guard is not None and guard.rolls_back and guard.good_step == state.step
        )

    def _look_first(self) -> None:
        """What the guard sees before the first step: weights may be another run's."""
        state = self.state
        if state.guard is not None and state.step == 0:
            state.guard.look(state.published_model(), 0)
            if state.guard.rolls_back:
                state.save(self.run, self.runtime)

    def _look(self) -> bool:
        """At the end of an epoch, whether the guard sees a collapse."""
        state = self.state
        if state.guard is None or state.step % self.plan.steps_per_epoch:
            return False
        return state.guard.look(state.published_model(), state.step)

    def _answer_collapse(self) -> bool:
        """Warn, act, and say whether training goes on from an earlier step."""
        state = self.state
        assert state.guard is not None
        if self.runtime.is_root:
            print(state.guard.warning(), flush=True)
        went_back = state.answer_collapse(self.run, self.runtime)
        if went_back:
            self.log.start_after(state.step)
        return went_back

    def _report(self, lr: float) -> None:
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
        }
        if state.guard is not None and state.guard.latest is not None:
            extra["probe_robust_accuracy"] = state.guard.latest
        if self.runtime.is_root:  # equal on all ranks, and rank 0 alone writes
            trainer = state.trainer
            named = trainer.model.named_parameters()
            ratios = named_trust_ratios(trainer.optimizer, named)
            extra |= {"trust_ratios": ratios} if ratios else {}
        self.log.report(
            state.trainer.totals.sums,
            step=state.step,
            epoch=state.step / self.plan.steps_per_epoch,
            lr=lr,
            extra=extra,
        )
