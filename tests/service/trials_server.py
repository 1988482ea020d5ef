"""Trials of the server and its database: ``python -m tests.service.trials_server 30``.

In each trial runs are submitted over HTTP while the server and PostgreSQL are killed
with -9 at random moments and started again. Afterwards every run is in the index with
its right state, none was started twice, and none that was answered for is lost.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from dathvd.client import Client
from dathvd.errors import UserError
from dathvd.service import record
from tests.processes import environment
from tests.service.postgres import Postgres
from tests.service.test_local import STUB, starts


class Stack:
    """A server on one port and its database."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        self.folder, self.database, self.port = folder, database, 0
        self.server: subprocess.Popen[str] | None = None
        self.log = folder / "server.log"

    def serve(self, patience: float = 60) -> None:
        """Start the server; again until the database is there."""
        limit = time.monotonic() + patience
        words = ["serve", "--port", str(self.port), "--database", self.database.url]
        while True:
            with self.log.open("a") as log:
                self.server = subprocess.Popen(
                    [*STUB, *words, "--root", str(self.folder / "runs")],
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    cwd=self.folder,
                )
            assert self.server.stdout is not None
            line = self.server.stdout.readline()
            if line.startswith("dathvd serves"):
                self.port = int(line.rstrip("/\n").rpartition(":")[2])
                return
            self.server.wait()
            assert time.monotonic() < limit, self.log.read_text()[-2000:]
            time.sleep(0.2)

    def kill_server(self) -> None:
        """As if its machine had lost power."""
        assert self.server is not None
        self.server.kill()
        self.server.wait()

    @property
    def client(self) -> Client:
        return Client(f"http://127.0.0.1:{self.port}")


def submit_all(stack: Stack, chance: random.Random, jobs: int) -> list[str]:
    """Submit so many, each tried until it is answered for; their folders."""
    answered = []
    for _ in range(jobs):
        time.sleep(chance.uniform(0, 0.3))
        for _ in range(200):
            try:
                (seen,) = stack.client.submit([f"sleep={chance.uniform(0, 0.4):.2f}"])
            except UserError:
                time.sleep(0.2)
            else:
                answered.append(str(seen["run"]))
                break
    return answered


def trial(stack: Stack, chance: random.Random, jobs: int, kills: int) -> Counter[str]:
    """One trial; how many runs ended how, and how often what was killed."""
    known = {path.parent for path in (stack.folder / "runs").rglob(record.JOB_FILE)}
    answered: list[str] = []
    thread = threading.Thread(
        target=lambda: answered.extend(submit_all(stack, chance, jobs))
    )
    thread.start()
    counts: Counter[str] = Counter()
    for _ in range(kills):
        time.sleep(chance.uniform(0, 1.0))
        if chance.random() < 0.6:
            stack.kill_server()
            counts["server killed"] += 1
        else:
            stack.database.kill()
            counts["database killed"] += 1
            time.sleep(chance.uniform(0, 0.5))
            stack.database.start()
        if stack.server is None or stack.server.poll() is not None:
            stack.serve()
    thread.join()
    assert len(answered) == len(set(answered)) == jobs
    runs = {path.parent for path in (stack.folder / "runs").rglob(record.JOB_FILE)}
    new = {str(run) for run in runs - known}
    assert set(answered) <= new, "a run that was answered for is lost"
    found = settle(stack, {str(run) for run in runs})
    for run in new:
        assert found[run]["status"]["state"] == "finished", found[run]
        assert starts(Path(run)) == 1, f"{run} was started {starts(Path(run))} times"
        counts["finished"] += 1
    counts["not answered for"] = len(new) - len(answered)
    return counts


def settle(stack: Stack, runs: set[str], seconds: float = 90) -> dict[str, Any]:
    """What the index says when all of the runs are in it and have ended."""
    limit = time.monotonic() + seconds
    while True:
        try:
            rows, _ = stack.client.runs(limit=1000)
        except UserError:
            rows = []
        found = {row["run"]: row for row in rows}
        states = {found[run]["status"]["state"] for run in runs & found.keys()}
        assert states <= {"queued", "running", "finished"}, states
        if runs <= found.keys() and states == {"finished"}:
            return found
        assert time.monotonic() < limit, (runs - found.keys(), states)
        time.sleep(0.2)


def main(count: int, first: int = 0) -> None:
    """Run the trials; say what was killed and how runs ended."""
    totals: Counter[str] = Counter()
    database = Postgres()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        own = {"DATHVD_STATE": str(folder / "queue"), "DATHVD_SLOTS": "2"}
        own |= {"XDG_CONFIG_HOME": str(folder / "config")}
        os.environ.update(environment(own))
        stack = Stack(folder, database)
        stack.serve()
        try:
            for seed in range(first, first + count):
                totals += trial(stack, random.Random(seed), jobs=3, kills=2)
                print(f"trial {seed}: {dict(totals)}", flush=True)
        finally:
            stack.kill_server()
            database.remove()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
