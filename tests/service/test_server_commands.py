"""The commands with ``DATHVD_SERVER``: a server does it all, with real trainings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import DATHVD, Finished, run
from tests.service.serving import Server, serving
from tests.service.twelve import TRAIN

Command = Callable[..., Finished]


def rows(command: Command) -> dict[str, dict[str, Any]]:
    """What ``dathvd runs`` says, by the folder's name."""
    lines = command("runs", "--json").stdout.splitlines()
    return {Path(row["run"]).name: row for row in map(json.loads, lines)}


def wait_for(
    command: Command, name: str, good: Callable[[dict[str, Any]], bool]
) -> None:
    limit = time.monotonic() + 120
    while not good(row := rows(command)[name]):
        assert time.monotonic() < limit, row
        time.sleep(0.3)


@pytest.mark.slow
def test_every_command_is_answered_by_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:

        def command(*words: str) -> Finished:
            done = run([DATHVD, *words], env={"DATHVD_SERVER": server.address})
            assert done.code == 0, done.output
            return done

        drive(command, tmp_path)
        refuse(server)
    # the client's own index was not even made
    assert not (tmp_path / "runs.sqlite").exists()


def drive(command: Command, folder: Path) -> None:
    """Submit two runs, stop, resume and retry one, end all."""
    long = [*TRAIN, "--set", "train.epochs=3000"]
    done = command("submit", "--seeds", "0,1", "--group", "two", "--", *long)
    first, second = (Path(line).name for line in done.stdout.split())
    assert rows(command).keys() == {first, second}
    wait_for(command, first, lambda row: bool(row["epoch"]))
    assert "loss" in command("logs", first).stdout
    assert ", asked to end" in command("stop", first).stdout
    wait_for(command, first, lambda row: row["status"]["state"] == "stopped")
    assert rows(command)[first]["status"]["reason"] == "with a checkpoint"
    assert "attempt 2 is submitted" in command("resume", first).stdout
    command("stop", "--now", first, second)
    for name in (first, second):
        wait_for(command, name, lambda row: row["status"]["state"] == "stopped")
    again = Path(command("retry", first).stdout.split()[-1]).name
    assert again == f"{first}-retry"
    command("stop", "--now", again)
    wait_for(command, again, lambda row: row["status"]["state"] == "stopped")
    compared = json.loads(command("compare", "--group", "two", "--json").stdout)
    assert compared["differences"].keys() == {"seed"}
    assert sorted(compared["differences"]["seed"]) == [0, 0, 1]


def refuse(server: Server) -> None:
    """What only makes sense here is refused, and a wrong server named."""
    here = {"DATHVD_SERVER": server.address}
    for words, env, message in (
        (["runs", "--rescan", "."], here, "a server indexes its own runs"),
        (["submit", "--run-dir", "x", "--", "train"], here, "chooses the folder"),
        (["submit", "--", "evaluate", "x"], here, "a server takes trainings"),
        (["stop", "nothing"], here, "run nothing: no such run"),
        (["runs"], {"DATHVD_SERVER": "http://127.0.0.1:9"}, "cannot be reached"),
        (
            ["runs"],
            {**here, "DATHVD_TOKEN_FILE": "/no/such"},
            "DATHVD_TOKEN_FILE /no/such: No such file",
        ),
    ):
        done = run([DATHVD, *words], env=env)
        assert done.code == 2 and message in done.stderr, done.output
