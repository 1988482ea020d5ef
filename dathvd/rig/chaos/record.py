"""A campaign's file: what was played so far, so that the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, write_json
from dathvd.rig.chaos.campaign import Campaign
from dathvd.rig.chaos.rounds import Reference, Verdict


def write(file: Path, campaign: Campaign, verdicts: Iterable[Verdict]) -> None:
    """Write what was played so far, in the order of the rounds.

    Raises:
        UserError: the file cannot be written.
    """
    ordered = sorted(verdicts, key=lambda verdict: verdict.number)
    undisturbed = {size: asdict(end) for size, end in campaign.undisturbed.items()}
    value = {
        **_drawn_from(campaign),
        "rounds": len(ordered),
        "rounds_with_problems": sum(bool(each.problems) for each in ordered),
        "undisturbed": undisturbed,
        "verdicts": [asdict(verdict) for verdict in ordered],
    }
    write_json(file, value)


def read(file: Path, campaign: Campaign) -> list[Verdict]:
    """The verdicts of a campaign's file, and none where there is no file yet.

    How undisturbed jobs ended is handed to the campaign.

    Raises:
        UserError: it is not such a file, or one of another campaign.
    """
    if not file.exists():
        return []
    with explain_os_errors("read", file):
        text = file.read_text(encoding="utf-8", errors="replace")
    try:
        return _parse(file, json.loads(text), campaign)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"--json {file}: is not a campaign's file (name another, or remove it)"
        ) from None


def _parse(file: Path, value: dict[str, Any], campaign: Campaign) -> list[Verdict]:
    for name, wanted in _drawn_from(campaign).items():
        if value[name] != wanted:
            raise UserError(
                f"--json {file}: its campaign has {name} {_shown(value[name])}, this "
                f"one {_shown(wanted)} (name another file, or remove it)"
            )
    known = {int(size): Reference(**end) for size, end in value["undisturbed"].items()}
    campaign.undisturbed.update(known)
    return [Verdict(**verdict) for verdict in value["verdicts"]]


def _drawn_from(campaign: Campaign) -> dict[str, Any]:
    """What decides each round."""
    faults, sizes = list(campaign.faults), list(campaign.sizes)
    return {"seed": campaign.seed, "faults": faults, "sizes": sizes}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
