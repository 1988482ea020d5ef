"""``dathvd rig``."""

from __future__ import annotations

import signal
from pathlib import Path

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
@click.option("--host", help="Whose link.  [default: all]")
@click.argument("name")
@click.argument("rate")
def rate_command(name: str, rate: str, host: str | None) -> None:
    """Change the rate of the rig NAME's links."""
    from dathvd.rig.rig import find

    find(name).set_rate(rate, host)


@command.command("link")
@click.argument("name")
@click.argument("host")
@click.argument("state")
def link_command(name: str, host: str, state: str) -> None:
    """Bring a host's link up, down, or into a black-hole, which swallows all."""
    from dathvd.rig.rig import find

    find(name).set_link(host, state)


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


@command.command("chaos")
@click.option("--seed", default=0, show_default=True, help="Decides all faults.")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Rounds at a time.",
)
@click.option(
    "--fault",
    "chosen",
    multiple=True,
    metavar="NAME",
    help="Only this kind of fault. May be repeated.",
)
@click.option(
    "--sizes",
    default="2,3",
    show_default=True,
    metavar="N,…",
    help="Numbers of ranks to draw from.",
)
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    help="Keep all verdicts there; the same command plays the rounds that are missing.",
)
@click.option(
    "--folder",
    metavar="DIR",
    help="Where the jobs work; those with a problem stay there.  [default: a new one "
    "under the folder for temporary files]",
)
def chaos_command(
    seed: int,
    rounds: int,
    jobs: int,
    chosen: tuple[str, ...],
    sizes: str,
    json_file: str | None,
    folder: str | None,
) -> int:
    """Strike small jobs by random faults; they must end as if nothing had been.

    Each round starts a job of two or three ranks, lets one fault happen at a random
    moment, and gives the same command again where the exit code asks for it. The last
    weights must be those of an undisturbed run, nothing may be left running, nothing
    may hang. Exit code 1 where that fails.

    SIGTERM and Ctrl-C end the jobs and leave nothing of them. With --json the same
    command goes on later (exit code 75 after SIGTERM), also with more --rounds.
    """
    import tempfile

    from dathvd.errors import UserError, choose
    from dathvd.launch.signals import StopSignals
    from dathvd.lists import some_integers
    from dathvd.rig import chaos

    names, lacks = chaos.available()
    for name in chosen:
        choose("--fault", name, chaos.FAULTS)
        if name in lacks:
            raise UserError(f"--fault {name}: this machine lacks {lacks[name]}")
    for name, reason in lacks.items() if not chosen else ():
        click.echo(f"left out: {name} (this machine lacks {reason})")
    numbers = some_integers("--sizes", sizes, least=1)
    place = Path(folder or tempfile.mkdtemp(prefix="dathvd-chaos-")).resolve()
    file = Path(json_file).resolve() if json_file else None
    with StopSignals() as signals:
        campaign = chaos.Campaign(
            seed, list(chosen) or names, place, numbers, lambda: signals.numbers
        )
        verdicts = chaos.read(file, campaign) if file else []
        played = {verdict.number for verdict in verdicts}

        def tell(verdict: chaos.Verdict) -> None:
            verdicts.append(verdict)
            if file:
                chaos.write(file, campaign, verdicts)
            click.echo(chaos.line(verdict))

        campaign.run([n for n in range(rounds) if n not in played], jobs, tell)
    chaos.print_report(verdicts)
    bad = any(verdict.problems for verdict in verdicts)
    if bad:
        click.echo(f"see {place}")
    if signals.numbers and len(verdicts) < rounds:
        return _stopped(signals.numbers[0], file)
    return int(bad)


def _stopped(number: int, file: Path | None) -> int:
    """Say that a campaign has stopped early; the exit code."""
    from dathvd.errors import TEMPORARY_FAILURE

    go_on = "the same command goes on" if file else "nothing is kept without --json"
    click.echo(f"stopped by {signal.Signals(number).name}: {go_on}", err=True)
    if number == signal.SIGINT:
        return 130
    return TEMPORARY_FAILURE if file else 1
