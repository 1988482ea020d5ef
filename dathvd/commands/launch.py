"""``dathvd launch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from dathvd.components import LAUNCHERS

if TYPE_CHECKING:
    from dathvd.launch import Host


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
    "--min-np",
    type=click.IntRange(min=1),
    help="Elastic: go on with as few ranks as this where hosts are lost.",
)
@click.option(
    "--max-np",
    type=click.IntRange(min=1),
    help="Elastic: use as many ranks as this where hosts have slots.  [default: all]",
)
@click.option(
    "--host-discovery",
    metavar="SCRIPT",
    help="Elastic: a program that prints 'host:slots' lines, the hosts as they are.",
)
@click.option(
    "--hot-every",
    type=click.IntRange(min=0),
    metavar="STEPS",
    help="Keep the state in the hosts' memory every so many steps, for restarts.  "
    "[default: 10 if elastic, else 0: never]",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(min=0),
    help="Start a failed job again from its last checkpoint, up to this many times in "
    "a row without a new checkpoint.  [default: 3 if elastic, else 0]",
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
    help="A further environment variable that ranks need. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Print the command and do nothing.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(
    num_proc: int | None,
    hosts: str | None,
    hostfile: str | None,
    mpi: bool,
    gloo: bool,
    min_np: int | None,
    max_np: int | None,
    host_discovery: str | None,
    hot_every: int | None,
    max_restarts: int | None,
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
    dathvd launch --min-np 2 --max-np 16 --hostfile FILE -- train
    dathvd launch -np 2 --dry-run -- train

    Starts mpirun (horovodrun for Gloo), prefixes each rank's output, keeps a log a
    rank in RUN/logs, ends all ranks when one fails or hangs and names the one that
    did. A restart goes on without hosts that no longer answer.

    With --min-np the number of ranks follows the hosts: the hostfile is read anew, or
    the discovery script run, every two seconds. A failure or a change of hosts ends the
    attempt; the next one goes on from the state in memory. A host that fails twice in
    ten minutes is left out for ten.

    Exit codes: 0 finished, 2 a mistake to correct, 75 asked to stop and saved (the
    same command goes on), 130 Ctrl-C, else 1.
    """
    import os
    import shutil

    from dathvd.errors import UserError
    from dathvd.launch import LaunchOptions
    from dathvd.launch.attempts import Job, Plan, make_plan, say, with_run_dir
    from dathvd.launch.elastic import Membership
    from dathvd.launch.reach import check_hosts
    from dathvd.ranks import HOT_EVERY

    if mpi and gloo:
        raise UserError("give --mpi or --gloo, not both")
    if not arguments:
        raise UserError("nothing to launch; end with the command, such as: -- train")
    find = _finder(hosts, hostfile, host_discovery)
    listed = find()
    elastic = min_np is not None
    if min_np is not None:
        _check_elastic(min_np, max_np, num_proc, hosts or hostfile or host_discovery)
    elif max_np or host_discovery:
        raise UserError("--max-np and --host-discovery need --min-np: elastic ranks")
    slots = sum(host.slots for host in listed)
    if elastic:
        num_proc = max(1, min(max_np or slots, slots))
    options = LaunchOptions(
        num_proc=num_proc or slots or 1,
        hosts=listed,
        controller="gloo" if gloo or not (mpi or shutil.which("mpirun")) else "mpi",
        launcher=launcher,
        network_interface=network_interface,
        ssh_port=ssh_port,
        ssh_identity_file=ssh_identity_file,
        forward=forward,
    )
    if not dry_run and not elastic:
        options = check_hosts(options)

    words, _ = with_run_dir(arguments)
    steps = (10 if elastic else 0) if hot_every is None else hot_every
    environ = {**os.environ, **({HOT_EVERY: str(steps)} if steps else {})}

    def plan(options: LaunchOptions) -> Plan:
        return make_plan(options, words, environ, stall_limit)

    if dry_run:
        click.echo(plan(options).to_shell(os.environ))
        return 0
    members = None
    if min_np is not None:
        members = Membership(min_np, max_np or 1_000_000, find, say)
    restarts = (3 if elastic else 0) if max_restarts is None else max_restarts
    job = Job(plan(options), options, restarts, grace, stall_limit, plan, members)
    return job.run()


def _check_elastic(
    least: int, most: int | None, num_proc: int | None, hosts: str | None
) -> None:
    from dathvd.errors import UserError

    if num_proc:
        raise UserError("give -np or --min-np, not both")
    if most is not None and most < least:
        raise UserError(f"--max-np {most}: fewer than --min-np {least}")
    if not hosts:
        raise UserError("--min-np: name the hosts by --hostfile or --host-discovery")


def _finder(
    hosts: str | None, hostfile: str | None, script: str | None
) -> Callable[[], tuple[Host, ...]]:
    """What lists the hosts as they are now."""
    from dathvd.errors import UserError
    from dathvd.launch import parse_hostfile, parse_hosts
    from dathvd.launch.elastic import discover

    if sum(map(bool, (hosts, hostfile, script))) > 1:
        raise UserError("give one of -H, --hostfile and --host-discovery")
    if script:
        return lambda: discover(script)
    if hostfile:
        return lambda: parse_hostfile(hostfile)
    return lambda: parse_hosts(hosts) if hosts else ()
