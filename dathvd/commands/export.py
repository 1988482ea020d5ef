"""``dathvd export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from dathvd.commands.options import trust_option
from dathvd.errors import UserError


@click.command("export")
@click.argument("run", metavar="RUN")
@click.option(
    "--to",
    "form",
    type=click.Choice(["torch", "onnx", "safetensors", "robustbench"]),
    required=True,
    help="torch.export's program, ONNX, weights by name, or a folder for RobustBench.",
)
@click.option(
    "--output",
    metavar="PATH",
    help="The file, or robustbench's folder.  [default: in RUN/exported]",
)
@click.option(
    "--checkpoint",
    default="last",
    show_default=True,
    metavar="last|best|STEP",
    help="The newest checkpoint of RUN, the best (train.select), or that of a step.",
)
@click.option(
    "--weights",
    default="raw",
    show_default=True,
    metavar="raw|ema",
    help="The run's own, or their average (of several the best one, or by its name, "
    "such as ema-0.99 or swa).",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="PATH",
    help="For robustbench: results of dathvd evaluate outside of RUN. May be repeated.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Run the export and RUN's network on test images and say how far they are "
    "apart; exit code 1 where rounding does not explain it.",
)
@trust_option
def command(
    run: str,
    form: str,
    output: str | None,
    checkpoint: str,
    weights: str,
    evaluations: tuple[str, ...],
    check: bool,
    trust: bool,
) -> int:
    """Write the network of RUN (a run or checkpoint folder) for other programs.

    What is written takes images in [0, 1]: the network's normalisation is in it.

    \b
    dathvd export RUN --to onnx --check
    dathvd export RUN --to robustbench --weights ema --output mine
    """
    from dathvd import collector

    with collector.paused():
        from dathvd.export import ExportRequest, export_run

    request = ExportRequest(
        form,
        output=Path(output) if output else None,
        checkpoint=_chosen(checkpoint),
        weights=weights,
        trust=trust,
        evaluations=tuple(map(Path, evaluations)),
        check=check,
    )
    difference = export_run(_folder(run), request)
    if difference is not None and not difference.is_small:
        click.echo("dathvd: error: the export differs from the network", err=True)
        return 1
    return 0


def _folder(run: str) -> Path:
    """The folder itself, else that of the submitted run of that name."""
    path = Path(run)
    if path.exists():
        return path
    try:
        from dathvd.service.here import Here
    except ImportError:  # without the extra `service` there are no submitted runs
        return path
    return Path(Here().find(run))


def _chosen(text: str) -> Literal["last", "best"] | int:
    """What ``--checkpoint`` says.

    Raises:
        UserError: neither a word that it takes nor a number.
    """
    if text == "last":
        return "last"
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise UserError(
            f"--checkpoint {text}: expected last, best, or a number of steps"
        )
    return int(text)
