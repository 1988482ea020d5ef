"""What a campaign found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from dathvd.rig.chaos.faults import FAULTS
from dathvd.rig.chaos.rounds import Verdict

_HEADINGS = (
    "fault",
    "rounds",
    "in time",
    "problems",
    "s without a step: median",
    "most",
)


def line(verdict: Verdict) -> str:
    """What came of one round."""
    state = "; ".join(verdict.problems) or "as if nothing had been"
    pause = verdict.pause
    waited = "" if pause is None else f", {pause:.1f} s without a step"
    return (
        f"{verdict.number:4d} {verdict.fault} of {verdict.size} ranks, "
        f"{verdict.moment}: {state} ({verdict.seconds:.0f} s{waited})"
    )


def print_report(verdicts: Sequence[Verdict]) -> None:
    """A row a fault, then each problem."""
    table = Table(title="faults")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "fault" else "right")
    for name in FAULTS:
        rounds = [each for each in verdicts if each.fault == name]
        if rounds:
            seconds = [each.pause for each in rounds]
            known = [each for each in seconds if each is not None]
            table.add_row(
                FAULTS[name].what,
                str(len(rounds)),
                str(sum(each.struck for each in rounds)),
                str(sum(bool(each.problems) for each in rounds)),
                *(f"{of(known):.1f}" if known else "" for of in (median, max)),
            )
    console = Console()
    console.print(table)
    for each in verdicts:
        for problem in each.problems:
            place = f"round {each.number}, {each.fault}, {each.size} ranks"
            console.print(f"{place}, {each.moment}: {problem}", highlight=False)
