"""``dathvd benchmark-speedup``."""

from __future__ import annotations

import click

from dathvd.commands.options import PAPER_STEP, paper_step_options

_FEW_IMAGES = 4
"""Images of a worker in a step of the default: two workers on two cores then end within
two minutes."""


@click.command("benchmark-speedup")
@paper_step_options
@click.option(
    "--np", "sizes", default="1,2", show_default=True, help="Numbers of workers."
)
@click.option(
    "--codecs",
    default="horovod,none,fp16,int8,sign,topk",
    show_default=True,
    help="Codecs; horovod is Horovod's own optimizer, nothing added; sign:two-way "
    "gives a codec an exchange of its own.",
)
@click.option(
    "--exchanges",
    default="auto",
    show_default=True,
    help="Of auto, allreduce, allgather, two-way, hierarchical; codecs take those "
    "they have.",
)
@click.option(
    "--overlap",
    "overlaps",
    default="none,attack",
    show_default=True,
    help="attack: gradients travel while the next batch is attacked.",
)
@click.option(
    "--batch-size-per-worker",
    type=click.IntRange(min=1),
    help="Images a step.  [default: 4; with --config its train.batch_size]",
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Rounds before the first timed one.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=9,
    show_default=True,
    help="Timed rounds: one step of each point in each.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=40.0,
    show_default=True,
    help="Begin no round after so long, once three are timed (for each launch).",
)
@click.option("-H", "--hosts", metavar="HOST:SLOTS,…", help="As for dathvd launch.")
@click.option("--hostfile", metavar="FILE", help="A file with 'host slots=N' lines.")
@click.option("--gloo", is_flag=True, help="Over Gloo instead of MPI.")
@click.option("--network-interface", metavar="NAME", help="Such as eth0.")
@click.option(
    "--rig-rates",
    metavar="RATE,…",
    help="Measure on a rig of this machine, one host a worker, over links of each of "
    "these rates, such as 50mbit,1gbit,unlimited. Needs root.",
)
@click.option(
    "--per-host",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers on each host of a rig.",
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="CPU threads of a worker, the same for every number of workers.  "
    "[default: the cores over the most workers of a host; on a rig 1]",
)
@click.option(
    "--pin", is_flag=True, help="Give workers their own cores; always on a rig."
)
@click.option("--real-data", is_flag=True, help="The config's own data set.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds a launch.")
@click.option(
    "--output",
    default="runs/speedup",
    show_default=True,
    metavar="DIR",
    help="Folder of speedup.json, speedup.csv and PNGs; all hosts must see it.",
)
@click.option("--json", "json_file", metavar="FILE", help="Also write the JSON there.")
def command(
    config_file: str | None,
    overrides: tuple[str, ...],
    sizes: str,
    codecs: str,
    exchanges: str,
    overlaps: str,
    batch_size_per_worker: int | None,
    warmup: int,
    repeats: int,
    seconds: float,
    hosts: str | None,
    hostfile: str | None,
    gloo: bool,
    network_interface: str | None,
    rig_rates: str | None,
    per_host: int,
    threads: int | None,
    pin: bool,
    real_data: bool,
    timeout: float,
    output: str,
    json_file: str | None,
) -> None:
    """Measure steps over numbers of workers, codecs, exchanges and overlap modes.

    By default it is the paper's step: PreActResNet-18 under PGD-10 on images of 32×32
    pixels, a few a worker; two minutes on two cores. --config digits takes seconds.

    The batch grows with the workers. All points of a size run in one group of
    processes and take their steps in turn, beside a step that exchanges nothing; what
    lies beyond the measured sizes is a model's prediction and marked so.

    \b
    dathvd benchmark-speedup --np 1,2 --codecs horovod,none,sign
    dathvd benchmark-speedup --np 8,16 -H a:8,b:8 --config FILE
    dathvd benchmark-speedup --np 1,2,4 --rig-rates 50mbit,1gbit
    dathvd benchmark-speedup --np 4 --rig-rates 200mbit --per-host 2
    """
    from dathvd.config import load_config

    few = () if config_file else (f"train.batch_size={_FEW_IMAGES}",)
    config = load_config(config_file or PAPER_STEP, (*few, *overrides))

    from pathlib import Path

    from dathvd.benchmark.speedup.options import (
        overlap_modes,
        threads_per_worker,
    )
    from dathvd.benchmark.speedup.study import studies, write_files
    from dathvd.benchmark.speedup.summary import to_table
    from dathvd.benchmark.speedup.sweep import Sweep, points_of
    from dathvd.benchmark.step.trainers import synthetic_data, with_batch_size
    from dathvd.errors import UserError
    from dathvd.files import make_folder, write_json
    from dathvd.launch import LaunchOptions, parse_hostfile, parse_hosts
    from dathvd.lists import some_integers, words

    if sum(option is not None for option in (hosts, hostfile, rig_rates)) > 1:
        raise UserError("give one of -H, --hostfile and --rig-rates")
    workers = tuple(sorted(set(some_integers("--np", sizes, 1))))
    config = with_batch_size(config, batch_size_per_worker)
    if not real_data:
        images = 4 * max(workers) * config.train.batch_size
        config = synthetic_data(config, images)
    listed = parse_hosts(hosts) if hosts else ()
    listed = parse_hostfile(hostfile) if hostfile else listed
    options = LaunchOptions(
        num_proc=max(workers),
        hosts=listed,
        controller="gloo" if gloo else "mpi",
        network_interface=network_interface,
    )
    on_rig = rig_rates is not None
    sweep = Sweep(
        config=config,
        sizes=workers,
        points=points_of(words(codecs), words(exchanges), overlap_modes(overlaps)),
        warmup=warmup,
        repeats=repeats,
        seconds=seconds,
        threads=threads or threads_per_worker(options, on_rig),
        pin=pin or on_rig,
        timeout=timeout,
        folder=Path(output),
        per_host=per_host,
    )
    make_folder(sweep.folder)
    if rig_rates is not None:
        rows = sweep.on_rig(words(rig_rates), click.echo, gloo=gloo)
    else:
        rows = sweep.on_hosts(options, click.echo)
    found = studies(rows, shared_workers=sweep.shared_workers if on_rig else None)
    report = write_files(found, rows, sweep.setting(), sweep.folder)
    if json_file is not None:
        write_json(Path(json_file), report)
    for study in found:
        click.echo(to_table(study.rows, study.title()))
        click.echo(study.error_line())
        click.echo(study.prediction_line())
    for sentence in report["advice"]:
        click.echo(sentence)
    click.echo(f"files in {sweep.folder}")
