"""``dathvd train``: one worker; horovodrun, mpirun or srun start several."""

from __future__ import annotations

import click

from dathvd.commands.options import config_options


@click.command("train")
@config_options
@click.option(
    "--run-dir",
    metavar="DIR",
    help="Where the run is kept; the same command again goes on from its last "
    "checkpoint. Without it, a dated folder under runs/.",
)
def command(
    config_file: str | None, overrides: tuple[str, ...], run_dir: str | None
) -> int:
    """Train a robust model; each process is one Horovod worker.

    \b
    dathvd train                                      one worker
    horovodrun -np 16 dathvd train                    16 workers
    dathvd train --config digits --set train.epochs=3
    """
    from dathvd import stop

    stop.listen()

    from dathvd.config import load_config

    config = load_config(config_file, overrides)

    from pathlib import Path

    from dathvd.errors import TEMPORARY_FAILURE
    from dathvd.runtime import guard, start
    from dathvd.training.run import train

    runtime = start(config.train.device)
    with guard(runtime):
        finished = train(config, Path(run_dir) if run_dir else None, runtime)
    left_as_told = config.train.max_steps and not stop.asked()
    return 0 if finished or left_as_told else TEMPORARY_FAILURE
