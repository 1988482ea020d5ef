"""A real PostgreSQL of a test's own, reached through a socket in its folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Postgres:
    """One that is made, started, killed and started again.

    Its folder is not below pytest's own, which no other user may enter.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dathvd-postgres-"))
        self._as_user: list[str] = []
        if os.geteuid() == 0:  # it refuses to run as root
            self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres"]
            self._as_user.append("--clear-groups")
            shutil.chown(self._folder, "postgres", "postgres")
        self._data = self._folder / "data"
        words = ["-D", str(self._data), "-A", "trust", "-U", "me", "--no-sync"]
        self._call("initdb", *words)
        self.start()

    @property
    def url(self) -> str:
        """For ``--database``."""
        return f"postgresql+psycopg://me@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start it, also after it was killed."""
        options = f"-k {self._folder} -c listen_addresses='' -c fsync=off"
        limit = time.monotonic() + 60
        while True:  # as long as one of the killed one's processes is there, it refuses
            try:
                return self._call(
                    "pg_ctl", "-D", str(self._data), "-w", "-o", options, "start"
                )
            except subprocess.CalledProcessError:
                assert time.monotonic() < limit, (self._folder / "log").read_text()
                time.sleep(0.3)

    def kill(self) -> None:
        """Kill its first process with -9; the others notice and leave."""
        pid = int((self._data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self._call("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")
        shutil.rmtree(self._folder)

    def _call(self, program: str, *words: str) -> None:
        command = [*self._as_user, str(BINARIES[-1] / program), *words]
        # pg_ctl's server would keep a pipe open
        with (self._folder / "log").open("a") as log:
            subprocess.run(command, check=True, cwd="/", stdout=log, stderr=log)
