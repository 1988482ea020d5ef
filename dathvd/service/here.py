"""The service without a server: the index, run folders and engines of this machine.

It has the methods of ``dathvd.client.Client``, so that commands need not know which of
both answers them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dathvd.errors import UserError
from dathvd.service import files, record, submission
from dathvd.service.catalogue import Catalogue, Query
from dathvd.service.comparison import compare, summarise
from dathvd.service.engines.base import Unreachable
from dathvd.service.observe import observe_all


class Here:
    """This machine's runs. Runs are named as ``find`` names them: by their folder."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()

    def runs(
        self,
        *,
        state: Sequence[str] = (),
        group: str | None = None,
        text: str | None = None,
        limit: int = 50,
        offset: int = 0,
    ) -> tuple[list[dict[str, Any]], int]:
        """Runs, newest first, and how many there are without ``limit``."""
        return self.catalogue.select(Query(tuple(state), group, text, limit, offset))

    def find(self, name: str) -> str:
        """The folder that a path, its end, or the start of a uuid stands for.

        Raises:
            UserError: there is none, or several.
        """
        path = Path(name)
        if (path / record.JOB_FILE).exists():
            return str(path.absolute())
        found = self.catalogue.find(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"run {name}: which of {', '.join(found[:4])}?")
        raise UserError(
            f"run {name}: no such submitted run (dathvd runs lists them; "
            "dathvd runs --rescan ROOT indexes those below a folder)"
        )

    def submit_request(self, request: submission.Request) -> dict[str, Any]:
        """Submit one job."""
        return self._observe(_answered(submission.submit, request))

    def stop(self, run: str, *, now: bool = False) -> dict[str, Any]:
        """End a run; it saves first unless ``now``."""
        _answered(submission.stop, Path(run), now=now)
        return self._observe(Path(run))

    def resume(self, run: str) -> dict[str, Any]:
        """Go on with a run that ended."""
        _answered(submission.resume, Path(run))
        return self._observe(Path(run))

    def retry(self, run: str) -> dict[str, Any]:
        """Run a job that ended anew."""
        return self._observe(_answered(submission.retry, Path(run)))

    def run(self, run: str) -> dict[str, Any]:
        """One run."""
        return self._observe(Path(run))

    def log(
        self, run: str, rank: int | None = None, start: int = -65536
    ) -> tuple[str, int]:
        """A log's text from a place on, and the place behind it."""
        return files.log_part(Path(run), rank, start)

    def compare(
        self, runs: Sequence[str] = (), group: str | None = None
    ) -> dict[str, Any]:
        """Differences of configurations beside accuracies."""
        if group:
            rows, _ = self.catalogue.select(
                Query(group=group, limit=1000, oldest_first=True)
            )
            runs = [row["run"] for row in rows]
        return comparison_json(runs)

    def _observe(self, run: Path) -> dict[str, Any]:
        seen = observe_all([run])
        try:
            self.catalogue.put(seen)
        except UserError as error:  # the index is a convenience
            print(f"dathvd: warning: {error}", file=sys.stderr)
        if not seen:
            raise UserError(f"{run}: it holds no job that was submitted")
        return seen[0].to_json()


def comparison_json(runs: Sequence[str]) -> dict[str, Any]:
    """A comparison of run folders as plain values."""
    compared = compare(observe_all([Path(run) for run in runs]))
    return {
        "runs": [run.to_json() for run in compared.runs],
        "differences": compared.differences,
        "evaluations": compared.evaluations,
        "is_comparable": compared.is_comparable,
        "summaries": [asdict(each) for each in summarise(compared)],
    }


def _answered(action: Any, *arguments: Any, **options: Any) -> Any:
    """Turn an engine's silence into an error of one line."""
    try:
        return action(*arguments, **options)
    except Unreachable as error:
        raise UserError(f"the engine did not answer: {error}") from None
