"""What looks at the weights between steps: the guard, with its probes, checkpoints and
actions, and the estimate of the objective's gradient."""

from __future__ import annotations

from dataclasses import dataclass, field

from dathvd import checkpoint
from dathvd.attacks import build_attack
from dathvd.training.guard import Guard
from dathvd.training.metrics import MetricsLog
from dathvd.training.prepare import Job
from dathvd.training.saver import Saver, looks_after_disk
from dathvd.training.saving import restore
from dathvd.training.state import TrainingState
from dathvd.training.stationarity import Estimate, stationarity_of


@dataclass
class Watch:
    """Looks at the state before the first step, after each epoch, and where estimates
    are due, and acts. Every rank calls all of its methods.
    """

    state: TrainingState
    job: Job
    log: MetricsLog
    saver: Saver
    _collapsed: bool = field(default=False, init=False)
    _estimate: Estimate | None = field(default=None, init=False)
    """Of this step's weights, where one is due."""

    def __post_init__(self) -> None:
        job = self.job
        self._stationarity = stationarity_of(job.config, job.plan, job.runtime)

    def look_first(self) -> None:
        """Probe the first weights, which may be another run's; keep them if need be."""
        state, guard = self.state, self.state.guard
        if guard is None or state.step > 0:
            return
        guard.look(state.published_model(), 0)
        if guard.spared_steps:
            self.saver.begin()

    def look(self) -> None:
        """Probe the model, if an epoch has ended, and measure its gradient if due."""
        state, guard, measure = self.state, self.state.guard, self._stationarity
        if state.step % self.job.plan.steps_per_epoch:
            guard = None
        if measure is not None and not measure.is_due(state.step):
            measure = None
        self._collapsed, self._estimate = False, None
        if guard is None and measure is None:
            return
        model = state.published_model()
        if guard is not None:
            self._collapsed = guard.look(model, state.step)
            if len(state.trainer.averages) > 1:
                guard.compare(state.published_averages())
        if measure is not None:
            self._estimate = measure(model, state.trainer.objective)

    @property
    def wants_row(self) -> bool:
        """Whether there is something to say of this very step."""
        return self._estimate is not None

    def numbers(self) -> dict[str, float]:
        """What was seen, for a row of metrics."""
        found = {} if self._estimate is None else self._estimate.numbers()
        guard = self.state.guard
        if guard is None or guard.latest is None:
            return found
        averages = guard.averages.items()
        return {
            **found,
            "probe_robust_accuracy": guard.latest,
            **{f"probe_{name}_robust_accuracy": value for name, value in averages},
            "guard_alarms": len(guard.collapses),
        }

    def answer(self) -> bool:
        """Warn of a collapse that was seen, and act as configured.

        Returns:
            Whether the state is now an earlier step's, later checkpoints being gone.
        """
        guard = self.state.guard
        if guard is None or not self._collapsed:
            return False
        self.job.say(guard.warning())
        if not guard.may_act:
            return False
        went_back = self._go_back(guard)
        guard.actions += 1
        self.state.trainer.use_attack(build_attack(guard.attack()))
        if not went_back:  # else the sums are the earlier step's
            self.state.trainer.totals.sums.zero_()
        return went_back

    def _go_back(self, guard: Guard) -> bool:
        """Restore the last good step, if the guard keeps it; what was seen stays."""
        if guard.kept_step is None:
            return False
        actions, collapses = guard.actions, guard.collapses
        good = checkpoint.checkpoint_folder(self.job.folder, guard.kept_step)
        self.saver.finish()
        restore(self.state, good, self.job.runtime)
        guard.actions, guard.collapses = actions, collapses
        if looks_after_disk(self.job.runtime):
            checkpoint.discard_after(good)
        self.log.start_after(self.state.step)
        return True

    @property
    def wants_checkpoint(self) -> bool:
        """Whether this step is the best, or one that a collapse would go back to."""
        guard = self.state.guard
        return guard is not None and self.state.step in guard.spared_steps
