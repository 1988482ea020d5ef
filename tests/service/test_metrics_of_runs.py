"""What the training loop writes into its rows is what Prometheus is served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import nn

from dathvd.config import load_config
from dathvd.distributed import Exchanger
from dathvd.distributed.provisional import Verdict
from dathvd.runtime import start
from dathvd.service import record
from dathvd.service.catalogue import Catalogue
from dathvd.service.server.prometheus import exposition
from dathvd.training.guard import Guard
from dathvd.training.run import train

RUN = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=70",
    "data.num_test=14", "train.batch_size=14", "model.width=4", "train.log_every=1",
    "attack.num_steps=1", "train.epochs=4", "train.max_steps=14",
    "train.guard.action=warn", "train.guard.drop=20", "train.guard.num_samples=14",
]  # fmt: skip


def job_of(run: Path) -> None:
    """A job of another host: nobody here can say that it has ended."""
    job = record.new_job(
        engine="local",
        num_proc=1,
        arguments=("train",),
        folder="/",
        host="elsewhere",
        config=load_config(None, RUN).model_dump(mode="json"),
    )
    record.write_job(run, job)


def served(catalogue: Catalogue) -> dict[str, dict[tuple[str, ...], float]]:
    """The values of each family by its labels."""
    text = exposition(catalogue).decode()
    return {
        family.name: {tuple(s.labels.values()): s.value for s in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_a_collapse_and_a_skipped_step_are_counted_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """14 steps, of which one is skipped; the probe falls after the second epoch."""
    run = tmp_path / "runs" / "guarded"
    seen: list[bool] = []

    def collapsing(self: Guard, model: nn.Module, step: int) -> bool:
        return self.judge({0: 0.5, 4: 0.9}.get(step, 0.1), step)

    def third_is_skipped(self: Exchanger) -> Verdict:
        seen.append(len(seen) != 2)
        return Verdict(torch.tensor(seen[-1]))

    monkeypatch.setattr(Guard, "look", collapsing)
    monkeypatch.setattr(Exchanger, "finite", third_is_skipped)
    train(load_config(None, RUN), run, start("cpu"))
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [row["skipped_steps"] for row in rows] == [0, 0] + [1] * 12
    # the first probe is of the weights before the first step
    assert [row["guard_alarms"] for row in rows] == [0] * 7 + [1] * 7
    job_of(run)
    job_of(tmp_path / "other" / "guarded")
    catalogue = Catalogue()
    assert catalogue.rescan(tmp_path) == 2
    found = served(catalogue)
    for name in (
        "guard_alarms",
        "skipped_steps",
        "exposed_seconds",
        "bytes_sent",
        "robust_accuracy",
        "images_per_second",
        "probe_robust_accuracy",
    ):
        values = found[f"dathvd_run_{name}"]
        assert list(values.values()) == pytest.approx([rows[-1][name]]), name
    # two folders of one name are two series: Prometheus refuses a page with one twice
    assert len(found["dathvd_run_progress"]) == 1
    (run.parents[1] / "other" / "guarded" / "metrics.jsonl").write_text(lines[0])
    assert len(served(catalogue)["dathvd_run_loss"]) == 2
    catalogue.close()
