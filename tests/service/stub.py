"""The local engine with a quick command in the place of ``dathvd launch``.

    python stub.py supervise TICKET SLOTS LOCK
    python stub.py submit ROOT SECONDS
    python stub.py serve OPTIONS of dathvd serve

All but the command is the product's.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dathvd.commands.serve import command as serve
from dathvd.service import submission
from dathvd.service.engines import local, supervisor
from dathvd.service.record import Job


def use() -> None:
    """Have this process start stubs, whatever is submitted."""
    local.SUPERVISOR = [sys.executable, __file__, "supervise"]
    setattr(supervisor, "launch_command", _command)


def _command(run: Path, job: Job) -> list[str]:
    script = Path(__file__).with_name("stub_command.py")
    seconds = job.arguments[-1].rpartition("=")[2]
    return [sys.executable, "-S", str(script), str(run), seconds]


def request(root: Path, seconds: float, **fields: object) -> submission.Request:
    """A training that takes so long."""
    arguments = ("train", str(seconds))
    return submission.Request(arguments, root=root, **fields)  # type: ignore[arg-type]


def main() -> None:
    """One of the three, by its name."""
    what, *words = sys.argv[1:]
    use()
    if what == "supervise":
        sys.argv[1:] = words
        supervisor.main()
        return
    setattr(submission, "check", lambda request: None)
    if what == "serve":
        # an override such as ``sleep=0.5`` is no field: it says how long a stub takes
        serve.main(words, standalone_mode=False)
    else:
        print(submission.submit(request(Path(words[0]), float(words[1]))), flush=True)


if __name__ == "__main__":
    main()
