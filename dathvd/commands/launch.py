"""``dathvd launch``."""

from __future__ import annotations

import click

from dathvd.components import LAUNCHERS


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
    help="Start a failed job again from its last checkpoint, up to this many times in "
    "a row without a new checkpoint.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds for the ranks to save after SIGTERM or SIGUSR1.",
)
@click.option(
    "--launcher",
    metavar="NAME",
    help=f"What starts the ranks: {', '.join(LAUNCHERS)}.  [default: the first of them "
    "that is installed]",
)
@click.option(
    "--stall-limit",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="End a rank that makes no step for so long and for 20 times its longest step, "
    "or that is stopped (SIGSTOP) for so long; 0 never does.",
)
@click.option(
    "--network-interface",
    metavar="NAME",
    help="What the ranks talk over, such as eth0.  [default: that of ssh]",
)
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
    launcher: str | None,
    stall_limit: float,
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

    Starts mpirun (horovodrun for Gloo), prefixes each rank's output, keeps a log a
    rank in RUN/logs, ends all ranks when one fails or hangs and names the one that
    did. A restart goes on without hosts that no longer answer.

    Exit codes: 0 finished, 2 a mistake to correct, 75 asked to stop and saved (the
    same command goes on), 130 Ctrl-C, else 1.
    """
    import os
    import shutil

    from dathvd.errors import UserError
    from dathvd.launch import LaunchOptions, parse_hostfile, parse_hosts
    from dathvd.launch.attempts import Job, Plan, make_plan, with_run_dir
    from dathvd.launch.reach import check_hosts

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
        launcher=launcher,
        network_interface=network_interface,
        ssh_port=ssh_port,
        ssh_identity_file=ssh_identity_file,
        forward=forward,
    )
    if not dry_run:
        options = check_hosts(options)

    words, _ = with_run_dir(arguments)

    def plan(options: LaunchOptions) -> Plan:
        return make_plan(options, words, os.environ, stall_limit)

    if dry_run:
        click.echo(plan(options).to_shell(os.environ))
        return 0
    return Job(plan(options), options, max_restarts, grace, stall_limit, plan).run()
