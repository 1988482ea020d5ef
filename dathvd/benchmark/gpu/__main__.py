"""The command of the benchmark of one GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import torch

from dathvd.benchmark.gpu.clock import Budget
from dathvd.benchmark.gpu.codecs import measure_codecs
from dathvd.benchmark.gpu.ensemble import measure_autoattack, random_task
from dathvd.benchmark.gpu.rates import Rates, measure_rates
from dathvd.benchmark.gpu.steps import CASES, TINY, available_loops, measure_case
from dathvd.benchmark.step.timing import device_name
from dathvd.config import ModelConfig
from dathvd.files import write_json

SECTIONS = ("codecs", "steps", "autoattack")


@dataclass
class Report:
    """All figures, written after each one: a run that is cut off loses nothing."""

    path: Path | None
    content: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def add(self, section: str, row: dict[str, Any]) -> None:
        """One more figure."""
        self.content.setdefault(section, []).append(row)
        click.echo(
            f"{section}: " + ", ".join(f"{k} {_short(v)}" for k, v in row.items())
        )
        self.write()

    def say(self, line: str) -> None:
        """A remark, such as what was left out."""
        self.content.setdefault("remarks", []).append(line)
        click.echo(f"remark: {line}")
        self.write()

    def write(self) -> None:
        """The file as far as it has come."""
        if self.path is not None:
            write_json(self.path, self.content)


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE")
@click.option("--sections", default=",".join(SECTIONS), show_default=True)
@click.option("--cases", default="", help="Numbers of the steps' cases, from 0.")
@click.option("--minutes", default=8.5, show_default=True, help="What must be enough.")
@click.option("--compile/--no-compile", "compiled", default=False, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--tiny", is_flag=True, help="A rehearsal on any device.")
def main(
    json_file: Path | None,
    sections: str,
    cases: str,
    minutes: float,
    compiled: bool,
    rounds: int,
    device: str,
    tiny: bool,
) -> None:
    """Measure one GPU, print each figure at once and write them all as JSON."""
    place, budget = torch.device(device), Budget(60 * minutes)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device")
    rates = measure_rates(place, 128 if tiny else 8192)
    content = {
        "device": device_name(place),
        "torch": torch.__version__,
        "rates": rates.to_json(),
    }
    report = Report(json_file, content)
    click.echo(f"{content['device']}, torch {torch.__version__}, {rates}")
    chosen = [int(number) for number in cases.split(",") if number]
    work: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "codecs": lambda: _codecs(place, tiny),
        "steps": lambda: _steps(
            place, rates, report, chosen, compiled, rounds, budget, tiny
        ),
        "autoattack": lambda: _autoattack(place, tiny),
    }
    for section in sections.split(","):
        if budget.left() < 5:
            report.say(f"{section}: no time left")
            continue
        try:
            for row in work[section]():
                report.add(section, row)
        except ImportError as error:
            report.say(f"{section}: {error}")
    report.write()


def _codecs(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    repeats = 1 if tiny else 20
    for row in measure_codecs(device, 40_000 if tiny else 25_600_000, repeats=repeats):
        yield row.to_json()


def _steps(
    device: torch.device,
    rates: Rates,
    report: Report,
    chosen: list[int],
    compiled: bool,
    rounds: int,
    budget: Budget,
    tiny: bool,
) -> Iterator[dict[str, Any]]:
    cases = TINY if tiny else CASES
    for case in [cases[number] for number in chosen] if chosen else cases:
        if budget.left() < 30:
            report.say(f"{case.name}: no time left")
            continue
        loops = available_loops(compiled=compiled)
        rows = measure_case(
            case, device, rates, loops=loops, rounds=rounds, say=report.say
        )
        yield from (row.to_json() for row in rows)


def _autoattack(device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    config = ModelConfig(name="preact_resnet18")
    if tiny:
        config = ModelConfig(name="small_cnn", width=2)
    task = random_task(device, config, 2 if tiny else 256)
    yield measure_autoattack(*task, f"{config.name}, random weights").to_json()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
