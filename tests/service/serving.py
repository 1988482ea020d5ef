"""A real server in a process of its own, and what is asked of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import environment


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **named: Any) -> None:
        return None


@dataclass
class Server:
    """A running ``dathvd serve``."""

    address: str
    log: Path
    index: str
    """The URL of its database."""

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request as it is: no redirect is followed, no path made tidy."""
        data = None
        sent = {"Accept": "application/json", **(headers or {})}
        if isinstance(body, dict):
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        elif isinstance(body, bytes):
            data = body
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        elif method == "POST":
            data = b""
        request = urllib.request.Request(
            self.address + path, data=data, headers=sent, method=method
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=30) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Serve on a free port until the block ends, with all its files in the folder."""
    log, index = folder / "server.log", f"sqlite:///{folder / 'server.sqlite'}"
    own = {
        "XDG_CONFIG_HOME": str(folder / "config"),
        "DATHVD_STATE": str(folder / "queue"),
        "DATHVD_DATABASE": index,
    }
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dathvd", "serve", "--port", "0", *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=folder,
            env=environment(own),
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("dathvd serves "), log.read_text()
        yield Server(line.split()[2].rstrip("/"), log, index)
    finally:
        process.terminate()
        process.wait(20)
