"""``dathvd launch``."""

from __future__ import annotations

import click

from dathvd.components import ENGINES


@click.command("launch")
@click.option(
    "-np",
    "--num-proc",
    type=click.IntRange(min=1),
    help="Number of ranks.  [default: all slots of the hosts]",
)
@click.option("-H", "--hosts", metavar="HOST:SLOTS,…", help="Hosts and their slots.")
@click.option("--hostfile", metavar="FILE", help="A file with 'host slots=N' lines.")
@click.option("--mpi", is_flag=True, help="Coordinate over MPI (the default).")
@click.option("--gloo", is_flag=True, help="Coordinate over Gloo.")
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Start a failed job again from its last checkpoint, up to this many times.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds for the ranks to save after SIGTERM or SIGUSR1.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help=f"What starts the ranks: {', '.join(ENGINES)}.  [default: the first of them "
    "that is installed]",
)
@click.option("--network-interface", metavar="NAME", help="Such as eth0.")
@click.option("--ssh-port", type=click.IntRange(1, 65535), help="On all hosts.")
@click.option("--ssh-identity-file", metavar="FILE", help="The private key for ssh.")
@click.option(
    "--env",
    "forward",
    multiple=True,
    metavar="NAME",
    help="A further environment variable that ranks need over Gloo. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Print the command and do nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    num_proc: int | None,
    hosts: str | None,
    hostfile: str | None,
    mpi: bool,
    gloo: bool,
    max_restarts: int,
    grace: float,
    engine: str | None,
    network_interface: str | None,
    ssh_port: int | None,
    ssh_identity_file: str | None,
    forward: tuple[str, ...],
    dry_run: bool,
    arguments: tuple[str, ...],
) -> int:
    """Start ranks on this machine or on many, and look after them.

    \b
    dathvd launch -np 2 -- train
    dathvd launch -np 4 -H a:2,b:2 --max-restarts 3 -- train --config FILE
    dathvd launch -np 2 --dry-run -- train

    Wraps horovodrun (mpirun where that is not installed): prefixes each rank's
    output, keeps a log a rank in RUN/logs, ends all ranks when one fails and names
    the one that did.
    """
    import os
    import shutil

    from dathvd.errors import UserError
    from dathvd.launch import LaunchOptions, parse_hostfile, parse_hosts
    from dathvd.launch.attempts import launch, make_plan

    if hosts and hostfile:
        raise UserError("give -H or --hostfile, not both")
    if mpi and gloo:
        raise UserError("give --mpi or --gloo, not both")
    if not arguments:
        raise UserError("nothing to launch; end with the command, such as: -- train")
    listed = parse_hosts(hosts) if hosts else ()
    listed = parse_hostfile(hostfile) if hostfile else listed
    options = LaunchOptions(
        num_proc=num_proc or sum(host.slots for host in listed) or 1,
        hosts=listed,
        controller="gloo" if gloo or not (mpi or shutil.which("mpirun")) else "mpi",
        engine=engine,
        network_interface=network_interface,
        ssh_port=ssh_port,
        ssh_identity_file=ssh_identity_file,
        forward=forward,
    )
    plan = make_plan(options, arguments, os.environ)
    if dry_run:
        click.echo(plan.to_shell(os.environ))
        return 0
    return launch(plan, options, restarts=max_restarts, grace=grace)
