"""``dathvd doctor``."""

from __future__ import annotations

import click


@click.command("doctor")
@click.option(
    "-np",
    "--num-proc",
    type=click.IntRange(min=1),
    help="Start that many ranks and compare them.  [default: all slots of -H]",
)
@click.option("-H", "--hosts", metavar="HOST:SLOTS,…", help="Hosts and their slots.")
@click.option("--mpi", is_flag=True, help="Start the ranks over MPI (the default).")
@click.option("--gloo", is_flag=True, help="Start the ranks over Gloo.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print this host's findings as JSON."
)
def command(
    num_proc: int | None, hosts: str | None, mpi: bool, gloo: bool, as_json: bool
) -> int:
    """Say what is there, what is wrong and what helps; exit code 1 if training
    would fail.

    \b
    dathvd doctor                      this host
    dathvd doctor -np 2                and two ranks on it
    dathvd doctor -H a:2,b:2           and ranks on other hosts
    horovodrun -np 2 dathvd doctor     the ranks that horovodrun starts

    With ranks it compares their versions, code and clocks, and measures an allreduce
    and an alltoall for a second each.
    """
    import json
    from dataclasses import asdict

    from dathvd.doctor.finding import report, would_fail
    from dathvd.ranks import launched_size

    if launched_size() > 1:
        return _on_ranks()

    from dathvd.doctor.local import local_findings
    from dathvd.doctor.reachability import host_findings
    from dathvd.errors import UserError
    from dathvd.launch import LaunchOptions, parse_hosts

    if mpi and gloo:
        raise UserError("give --mpi or --gloo, not both")
    options = None
    if num_proc or hosts:
        listed = parse_hosts(hosts) if hosts else ()
        options = LaunchOptions(
            num_proc=num_proc or sum(host.slots for host in listed),
            hosts=listed,
            controller="gloo" if gloo else "mpi",
        )
    if as_json and options:
        raise UserError("--json: it tells of this host alone; leave out -np and -H")
    findings = local_findings() + (host_findings(options) if options else [])
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        click.echo(report(findings))
    if would_fail(findings):
        return 1
    return _launch(options) if options else 0


def _on_ranks() -> int:
    """This process is one of several: compare with the others, rank 0 prints."""
    from dathvd.doctor.finding import report, would_fail
    from dathvd.doctor.ranks import rank_findings
    from dathvd.runtime import guard, start

    runtime = start()
    with guard(runtime):
        findings = rank_findings(runtime)
    if runtime.is_root:
        click.echo(report(findings))
        if would_fail(findings):
            click.echo("dathvd: error: these ranks cannot train together", err=True)
    return int(would_fail(findings))


def _launch(options: object) -> int:
    import os

    from dathvd.launch import LaunchOptions
    from dathvd.launch.attempts import Job, make_plan
    from dathvd.launch.reach import check_hosts

    assert isinstance(options, LaunchOptions)
    options = check_hosts(options)
    plan = make_plan(options, ["doctor"], os.environ)
    return Job(plan, options, restarts=0, grace=5.0).run()
