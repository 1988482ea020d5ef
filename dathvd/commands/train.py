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
@click.option(
    "--replay-history",
    metavar="RUN|FILE",
    help="Train as that run was: as many workers at each step, started by this command "
    "on this machine. Without --config, with that run's configuration.",
)
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    run_dir: str | None,
    replay_history: str | None,
) -> int:
    """Train a robust model; each process is one Horovod worker.

    \b
    dathvd train                                      one worker
    horovodrun -np 16 dathvd train                    16 workers
    dathvd train --config digits --set train.epochs=3
    """
    if replay_history:
        return _replay(replay_history, config_file, overrides, run_dir)

    from dathvd import collector, stop

    stop.listen()

    from dathvd.config import load_config

    config = load_config(config_file, overrides)

    from pathlib import Path

    from dathvd.errors import TEMPORARY_FAILURE

    with collector.paused():
        from dathvd.runtime import guard, start
        from dathvd.training.run import train

    runtime = start(config.train.device)
    with guard(runtime):
        finished = train(config, Path(run_dir) if run_dir else None, runtime)
    left_as_told = config.train.max_steps and not stop.asked()
    return 0 if finished or left_as_told else TEMPORARY_FAILURE


def _replay(
    history: str, config_file: str | None, overrides: tuple[str, ...], run: str | None
) -> int:
    from pathlib import Path

    from dathvd.launch.replay import replay

    stored = Path(history) / "config.yaml"
    if config_file is None and stored.exists():
        config_file = str(stored)
    words = ["train"]
    words += ["--config", config_file] if config_file else []
    words += [word for each in overrides for word in ("--set", each)]
    words += ["--run-dir", run] if run else []
    return replay(Path(history), words)
