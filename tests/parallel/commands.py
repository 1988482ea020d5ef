"""Commands of ``dathvd`` one after the other in one launch: ``commands.py FOLDER``.

Starting Python, torch and Horovod takes ranks longer than most commands of a test.
FOLDER holds ``commands.json``; each rank leaves there what each command said and its
exit code. That the console script does the same is left to the tests that start it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.processes import Finished, mpirun, run

ROOT = Path(__file__).parents[2]


def run_commands(
    size: int,
    *commands: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    timeout: float = 240,
) -> list[Finished]:
    """What each command left on ``size`` ranks, on all of which it must end alike.

    Args:
        size: the number of ranks; one runs without a launcher.
        commands: arguments of ``dathvd`` each.
        env: changes of the ranks' environment.
        timeout: seconds for all.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [[str(word) for word in command] for command in commands]
        (folder / "commands.json").write_text(json.dumps(words))
        path = f"{ROOT}{os.pathsep}{(env or {}).get('PYTHONPATH', '')}"
        changes = {**(env or {}), "PYTHONPATH": path}
        worker = [sys.executable, "-m", "tests.parallel.commands", str(folder)]
        if size == 1:
            launch = run(worker, env=changes, timeout=timeout)
        else:
            launch = mpirun(size, worker, env=changes, timeout=timeout)
        return [_outcome(folder, place, size, launch) for place in range(len(words))]


def _outcome(folder: Path, place: int, size: int, launch: Finished) -> Finished:
    """One command's; that of the launch where a command before it ended the ranks."""
    files = [folder / f"{place}-{rank}" for rank in range(size)]
    texts = [
        "".join(
            file.with_suffix(suffix).read_text()
            for file in files
            if file.with_suffix(suffix).exists()
        )
        for suffix in (".out", ".err")
    ]
    ends = [file.with_suffix(".code") for file in files]
    if not all(end.exists() for end in ends):
        stdout, stderr = launch.stdout + texts[0], launch.stderr + texts[1]
        after = launch.seconds_after_error
        return Finished(launch.code or -1, stdout, stderr, launch.seconds, after)
    codes = {int(end.read_text()) for end in ends}
    assert len(codes) == 1, f"exit codes {codes}\n{texts}"
    logs = [file.with_suffix(".err") for file in files]
    errors = [log.stat().st_mtime for log in logs if "error:" in log.read_text()]
    after = max(end.stat().st_mtime for end in ends) - min(errors, default=-math.inf)
    return Finished(codes.pop(), texts[0], texts[1], launch.seconds, after)


def _call(command: list[str], file: Path) -> None:
    """Run a command, what this process prints going to files."""
    from dathvd.__main__ import main

    for stream, suffix in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        stream.flush()
        with file.with_suffix(suffix).open("wb") as output:
            os.dup2(output.fileno(), stream.fileno())
    sys.argv = ["dathvd", *command]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        file.with_suffix(".code").write_text(str(end.code or 0))


if __name__ == "__main__":
    from dathvd.ranks import launched_rank

    folder = Path(sys.argv[1])
    for place, command in enumerate(json.loads((folder / "commands.json").read_text())):
        _call(command, folder / f"{place}-{launched_rank()}")
