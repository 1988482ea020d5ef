"""Runs blocks and examples one after the other: ``documents_worker.py WORK RESULT``.

One start of Python, torch and Horovod serves them all. The blocks of a page share their
names, as they do for who reads the page from the top.
"""

from __future__ import annotations

import json
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import horovod.torch as hvd


def attempt(piece: dict[str, Any], pages: dict[str, dict[str, Any]]) -> str:
    """Run one piece; what went wrong, or nothing."""
    try:
        if "example" in piece:
            sys.argv = [piece["example"], *piece["arguments"]]
            runpy.run_path(piece["example"], run_name="__main__")
        else:
            names = pages.setdefault(piece["page"], {"__name__": "page"})
            exec(compile(piece["code"], piece["place"], "exec"), names)
    except (Exception, SystemExit):
        return traceback.format_exc()
    return ""


def main() -> None:
    """Run all; rank 0 writes what went wrong on the first rank where something did."""
    work = json.loads(Path(sys.argv[1]).read_text())
    result = Path(sys.argv[2])
    hvd.init()
    pages: dict[str, dict[str, Any]] = {}
    own = {piece["place"]: attempt(piece, pages) for piece in work}
    everyone = hvd.allgather_object(own)
    if hvd.rank() == 0:
        first = {
            place: next((one[place] for one in everyone if one[place]), "")
            for place in own
        }
        result.write_text(json.dumps(first))


if __name__ == "__main__":
    main()
