"""Metrics for Prometheus, made at each scrape from the index and the newest rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dathvd.service.catalogue import Catalogue, Query
from dathvd.service.observe import last_row
from dathvd.service.status import ENDED, State

_GAUGES = {
    "images_per_second": "Training images a second, over all workers.",
    "epoch": "Passes over the training set that are done.",
    "loss": "Training loss.",
    "clean_accuracy": "Accuracy on clean training images, in [0, 1].",
    "robust_accuracy": "Accuracy on attacked training images, in [0, 1].",
    "exposed_seconds": "Seconds of waiting for gradients since the last row.",
    "bytes_sent": "Bytes sent by one worker since the last row.",
    "probe_robust_accuracy": "Accuracy of the guard's probe, in [0, 1].",
    "gradient_norm_squared": "Estimate of the objective's squared gradient norm.",
    "guard_alarms": "Collapses of robust accuracy that the guard has seen.",
    "skipped_steps": "Steps skipped because a gradient was not finite.",
}
"""The numbers of a row of metrics that are shown, with their help."""
_LABELS = ("run", "uuid")
"""Folders of one name may lie in several places: the uuid tells their runs apart."""


class RunsCollector(Collector):
    """What the runs of an index are doing.

    Args:
        catalogue: the index; it is read, not refreshed.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue

    def collect(self) -> Iterator[Metric]:
        """The families, in the order of the page."""
        counts = self._catalogue.count_states()
        states = GaugeMetricFamily("dathvd_runs", "Runs by state.", labels=["state"])
        for state in get_args(State):
            states.add_metric([state], counts.get(state, 0))
        yield states
        alive = tuple(state for state in get_args(State) if state not in ENDED)
        runs, _ = self._catalogue.select(Query(alive, limit=500), refresh=False)
        rows = [(run, last_row(Path(run["run"]))) for run in runs]
        yield self._progress(runs)
        for name, help in _GAUGES.items():
            yield _family(name, help, rows)

    def _progress(self, runs: list[dict[str, Any]]) -> Metric:
        name = "dathvd_run_progress"
        family = GaugeMetricFamily(name, "Share of the training done.", labels=_LABELS)
        for run in runs:
            if run["progress"] is not None:
                family.add_metric(_label(run), run["progress"])
        return family


Rows = list[tuple[dict[str, Any], dict[str, Any]]]


def _family(name: str, help: str, rows: Rows) -> Metric:
    family = GaugeMetricFamily(f"dathvd_run_{name}", help, labels=_LABELS)
    for run, row in rows:
        if isinstance(row.get(name), (int, float)):
            family.add_metric(_label(run), row[name])
    return family


def _label(run: dict[str, Any]) -> list[str]:
    return [Path(run["run"]).name, run["job"]["uuid"][:12]]


def exposition(catalogue: Catalogue) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(RunsCollector(catalogue))
    return generate_latest(registry)
