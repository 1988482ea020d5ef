"""What a run reports: rows in ``metrics.jsonl``, TensorBoard, the progress bar."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from dathvd import run_lock
from dathvd.files import explain_os_errors
from dathvd.report.progress import Progress
from dathvd.run_folder import truncate_metrics
from dathvd.runtime import Runtime, sum_over_workers


class MetricsLog:
    """Collects sums from all workers every few steps; rank 0 writes them down.

    Args:
        run: the run folder.
        runtime: this worker's place.
        progress: the progress bar (rank 0's; others' is silent).
        first_step: the step that the run begins or goes on with.
    """

    def __init__(
        self, run: Path, runtime: Runtime, progress: Progress, first_step: int
    ) -> None:
        self._run = run
        self._file = run / "metrics.jsonl"
        self._runtime = runtime
        self._progress = progress
        self._then = time.perf_counter()
        self._board: Any = None
        self.start_after(first_step)

    def start_after(self, step: int) -> None:
        """Forget what was written of later steps than this one."""
        if not self._runtime.is_root:
            return
        # TensorBoard is imported only here: it takes a second
        from torch.utils.tensorboard import SummaryWriter

        self.close()
        threading.excepthook = _told_in_a_line
        truncate_metrics(self._run, step)
        folder = self._run / "tensorboard"
        with explain_os_errors("write", folder):
            self._board = SummaryWriter(str(folder), purge_step=step + 1)

    def report(
        self, sums: Tensor, *, step: int, epoch: float, lr: float, extra: dict[str, Any]
    ) -> None:
        """Write a row; every rank calls it, and it waits for the device.

        Args:
            sums: float64 ``[6]`` as in ``Totals``, set to zero afterwards.
            step: steps done.
            epoch: passes over the training set done, a fraction.
            lr: the learning rate of the last step.
            extra: more numbers for the row.
        """
        total = sum_over_workers(self._runtime, sums, "metrics")
        sums.zero_()
        images, loss, *counts = total.tolist()
        now = time.perf_counter()
        seconds, self._then = now - self._then, now
        if not self._runtime.is_root:
            return
        row = {
            "step": step,
            "epoch": round(epoch, 4),
            # no image counts where every step of the interval was skipped
            **({"loss": loss / images} if images else {}),
            **_accuracies(*counts),
            "lr": lr,
            "seconds": seconds,
            "images_per_second": images / seconds,
            **extra,
        }
        self._progress.update(row)
        run_lock.check_held()
        with run_lock.still_there(), explain_os_errors("write", self._file):
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            for name, value in row.items():
                if name not in ("step", "seconds") and isinstance(value, (int, float)):
                    self._board.add_scalar(f"train/{name}", value, step)
            for layer, ratio in row.get("trust_ratios", {}).items():
                self._board.add_scalar(f"trust_ratio/{layer}", ratio, step)

    def close(self) -> None:
        """Flush TensorBoard's files; what its disk refuses is told, not raised.

        The rows of metrics are on disk by then, and an error that ends the run is not
        to be hidden by this one.
        """
        if self._board is None:
            return
        board, self._board = self._board, None
        try:
            board.close()
        except OSError as error:
            print(f"WARNING: TensorBoard's files are cut off: {error}", flush=True)


def _told_in_a_line(problem: threading.ExceptHookArgs) -> None:
    """The end of TensorBoard's thread on a full disk; its next writer hears of it."""
    if not isinstance(problem.exc_value, OSError):
        threading.__excepthook__(problem)
        return
    print(f"WARNING: a thread ended: {problem.exc_value}", flush=True)


def _accuracies(
    clean: float, robust: float, shown_clean: float, shown_attacked: float
) -> dict[str, float]:
    """The accuracies on those kinds of images that the network saw in training."""
    pairs = {"clean": (clean, shown_clean), "robust": (robust, shown_attacked)}
    return {f"{name}_accuracy": a / n for name, (a, n) in pairs.items() if n}
