"""Training metrics tell of the images that the network was shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dathvd.objectives import Terms
from dathvd.report.plots import plot_training
from dathvd.report.progress import Progress
from dathvd.runtime import start
from dathvd.training.metrics import MetricsLog
from dathvd.training.step import Totals

LABELS = torch.tensor([0, 1, 2, 2])
RIGHT = torch.eye(3)[LABELS]
HALF = torch.eye(3)[torch.tensor([0, 1, 0, 1])]


@pytest.mark.parametrize(
    ("clean", "attacked", "expected"),
    [
        (RIGHT, HALF, {"clean_accuracy": 1.0, "robust_accuracy": 0.5}),
        (None, HALF, {"robust_accuracy": 0.5}),
        (HALF, None, {"clean_accuracy": 0.5}),
        (None, None, {}),
    ],
    ids=["both", "attacked", "clean", "neither"],
)
def test_only_accuracies_that_were_seen(
    clean: Tensor | None,
    attacked: Tensor | None,
    expected: dict[str, float],
    tmp_path: Path,
) -> None:
    totals = Totals.zero(torch.device("cpu"))
    for _ in range(2):
        totals.add(Terms(torch.tensor(3.0), clean, attacked), LABELS)
    progress = Progress("train", 2, silent=True)
    log = MetricsLog(tmp_path, start("cpu"), progress, first_step=0)
    log.report(totals.sums, step=2, epoch=1.0, lr=0.1, extra={})
    log.close()
    [row] = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    found = {name: row[name] for name in row if name.endswith("accuracy")}
    assert found == expected and row["loss"] == 3.0
    assert not totals.sums.any()
    plot_training([row], tmp_path / "training.png")
    assert (tmp_path / "training.png").stat().st_size > 1000


@pytest.mark.slow
def test_what_the_guard_probes_is_drawn(tmp_path: Path) -> None:
    rows: list[dict[str, float]] = [
        {"epoch": epoch, "lr": 0.1, "robust_accuracy": 0.1 * epoch} for epoch in (1, 2)
    ]
    plot_training(rows, tmp_path / "without.png")
    rows[1]["probe_robust_accuracy"] = 0.7
    plot_training(rows, tmp_path / "with.png")
    without, drawn = (tmp_path / f"{name}.png" for name in ("without", "with"))
    assert drawn.read_bytes() != without.read_bytes()


def test_a_full_disk_under_tensorboard_hides_no_other_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its thread fails where it writes, and so does everybody who asks it later."""
    runtime = start("cpu")
    log = MetricsLog(tmp_path, runtime, Progress("train", 1, silent=True), 0)
    log._board.flush()  # the file's head shall not be what fails
    for file in (tmp_path / "tensorboard").iterdir():
        file.unlink()
        file.symlink_to("/dev/full")
    with pytest.raises(ValueError, match="the error that matters"):
        try:
            log._board.add_scalar("loss", 1.0, 1)
            raise ValueError("the error that matters")
        finally:
            log.close()
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "WARNING: TensorBoard's files are cut off" in said.out
