"""``dathvd rig``."""

from __future__ import annotations

import click


@click.group("rig")
def command() -> None:
    """Several hosts with slow links on this machine (Linux, needs root).

    Hosts are network namespaces node0, node1, … on a switch; token buckets limit each
    link in each direction. `up` prints the rig's name.
    """


@command.command("up")
@click.option("--hosts", default=2, show_default=True, help="Number of hosts.")
@click.option(
    "--rate",
    default="unlimited",
    show_default=True,
    help="Of every link, such as 200mbit or 1gbit.",
)
@click.option("--ssh", is_flag=True, help="Start an sshd on every host.")
def up_command(hosts: int, rate: str, ssh: bool) -> None:
    """Make a rig and print its name."""
    from dathvd.rig import up

    click.echo(up(hosts, rate=rate, ssh=ssh).name)


@command.command("down")
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Also rigs that are in use.")
def down_command(names: tuple[str, ...], everything: bool) -> None:
    """Remove the rigs NAMES; without names, all but those of a running process."""
    from dathvd.rig import down
    from dathvd.rig.rig import find, rigs, stale_rigs

    chosen = [find(name) for name in names] or (rigs() if everything else stale_rigs())
    for rig in chosen:
        down(rig)
        click.echo(f"removed {rig.name}")


@command.command("list")
def list_command() -> None:
    """List the rigs, their hosts, and what each host has sent."""
    from dathvd.rig.rig import rigs

    for rig in rigs():
        for host, counters in zip(rig.hosts, rig.counters(), strict=True):
            click.echo(f"{rig.name} {host} sent {counters.bytes} bytes")


@command.command("rate")
@click.argument("name")
@click.argument("rate")
def rate_command(name: str, rate: str) -> None:
    """Change the rate of the rig NAME's links."""
    from dathvd.rig.rig import find

    find(name).set_rate(rate)


# what follows the rig's name belongs to the command that is run there
_VERBATIM = {"allow_interspersed_args": False, "ignore_unknown_options": True}


@command.command("exec", context_settings=_VERBATIM)
@click.argument("name")
@click.argument("host")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_command(name: str, host: str, arguments: tuple[str, ...]) -> None:
    """Run a command on a host: dathvd rig exec NAME node0 horovodrun …"""
    import os

    from dathvd.rig.rig import find

    words = find(name).command(host, arguments)
    os.execvp(words[0], words)


@command.command("mpirun", context_settings=_VERBATIM)
@click.option("-np", "size", type=int, help="Ranks; without it, all hosts have theirs.")
@click.option(
    "--per-host",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Ranks on each host.",
)
@click.option("--ssh", is_flag=True, help="Through the rig's sshd.")
@click.argument("name")
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
def mpirun_command(
    name: str, arguments: tuple[str, ...], size: int | None, per_host: int, ssh: bool
) -> None:
    """Run a command as ranks on the hosts: dathvd rig mpirun -np 2 NAME python …"""
    import os

    from dathvd.rig.rig import find

    words = find(name).mpirun(arguments, size=size, per_host=per_host, ssh=ssh)
    os.execvp(words[0], words)
