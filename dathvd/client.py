"""A client of ``dathvd serve``.

    from dathvd.client import Client

    client = Client("http://127.0.0.1:8421")
    runs, total = client.runs(state=["running"])
    client.stop(runs[0]["job"]["uuid"])

It needs nothing but Python's standard library. Commands such as ``dathvd runs`` use it
where ``DATHVD_SERVER`` is set, with the token of ``DATHVD_TOKEN`` or of the file that
``DATHVD_TOKEN_FILE`` names.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dathvd.errors import UserError

SECONDS = 60.0
"""How long an answer may take."""


class Client:
    """The server at an address.

    Args:
        address: such as ``https://train.example:8421``.
        token: a token of the server, where it needs one.
        certificates: a PEM file of certificates to trust beside the system's.

    Raises:
        UserError: (every method) the server cannot be reached or refuses; the message
            is its own.
    """

    def __init__(
        self, address: str, token: str | None = None, certificates: str | None = None
    ) -> None:
        self._address = address.rstrip("/")
        self._token = token
        context = None
        if address.startswith("https:"):
            context = ssl.create_default_context(cafile=certificates)
        self._opener = urllib.request.build_opener(
            _NoRedirect, urllib.request.HTTPSHandler(context=context)
        )

    @classmethod
    def from_environment(cls) -> Client | None:
        """The server of ``DATHVD_SERVER``; None where that is not set.

        Raises:
            UserError: the file of the token cannot be read.
        """
        address = os.environ.get("DATHVD_SERVER")
        if not address:
            return None
        token = os.environ.get("DATHVD_TOKEN")
        file = os.environ.get("DATHVD_TOKEN_FILE")
        if not token and file:
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise UserError(f"DATHVD_TOKEN_FILE {file}: {error.strerror}") from None
        return cls(address, token, os.environ.get("SSL_CERT_FILE"))

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
        answer = self._call(
            "GET",
            "/api/runs",
            {
                "state": list(state),
                "group": group,
                "text": text,
                "limit": limit,
                "offset": offset,
            },
        )
        return answer["runs"], answer["total"]

    def run(self, uuid: str) -> dict[str, Any]:
        """One run."""
        return dict(self._call("GET", f"/api/runs/{_word(uuid)}"))

    def find(self, name: str) -> str:
        """The uuid of the run whose uuid begins so, or whose folder ends so."""
        found = self._call("GET", "/api/find", {"name": name})
        if len(found) != 1:
            what = f"which of {', '.join(found[:4])}?" if found else "no such run"
            raise UserError(f"run {name}: {what}")
        return str(found[0])

    def submit(
        self,
        overrides: Sequence[str] = (),
        *,
        engine: str = "local",
        num_proc: int = 1,
        options: Mapping[str, str] | None = None,
        grid: Sequence[str] = (),
        seeds: Sequence[int] = (),
        group: str | None = None,
        after: str | None = None,
    ) -> list[dict[str, Any]]:
        """Submit a training, or one for each point of a grid.

        Args:
            overrides: ``section.field=value`` over the defaults.
            engine: where it runs.
            num_proc: number of ranks.
            options: the engine's.
            grid: each ``section.field=value,value,…``.
            seeds: one run for each.
            group: what the runs share.
            after: the uuid of a run that must be finished first.
        """
        body = {
            "overrides": list(overrides),
            "engine": engine,
            "num_proc": num_proc,
            "options": dict(options or {}),
            "grid": list(grid),
            "seeds": list(seeds),
            "group": group,
            "after": after,
        }
        return list(self._call("POST", "/api/runs", body=body))

    def stop(self, uuid: str, *, now: bool = False) -> dict[str, Any]:
        """End a run; it saves first unless ``now``."""
        path = f"/api/runs/{_word(uuid)}/stop"
        return dict(self._call("POST", path, {"now": str(now).lower()}))

    def resume(self, uuid: str) -> dict[str, Any]:
        """Go on with a run that ended."""
        return dict(self._call("POST", f"/api/runs/{_word(uuid)}/resume"))

    def retry(self, uuid: str) -> dict[str, Any]:
        """Run a job that ended anew."""
        return dict(self._call("POST", f"/api/runs/{_word(uuid)}/retry"))

    def metrics(self, uuid: str, after: int = -1) -> list[dict[str, Any]]:
        """Rows of metrics of later steps than ``after``."""
        path = f"/api/runs/{_word(uuid)}/metrics"
        return list(self._call("GET", path, {"after": after}))

    def log(
        self, uuid: str, rank: int | None = None, start: int = -65536
    ) -> tuple[str, int]:
        """A log's text from a place on, and the place behind it."""
        path = f"/api/runs/{_word(uuid)}/log"
        answer = self._call("GET", path, {"rank": rank, "start": start})
        return answer["text"], answer["next"]

    def compare(
        self, uuids: Sequence[str] = (), group: str | None = None
    ) -> dict[str, Any]:
        """Differences of configurations beside accuracies."""
        query = {"uuid": list(uuids), "group": group}
        return dict(self._call("GET", "/api/compare", query))

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
    ) -> Any:
        chosen = {k: v for k, v in (query or {}).items() if v is not None}
        words = urllib.parse.urlencode(chosen, doseq=True)
        request = urllib.request.Request(
            f"{self._address}{path}{'?' if words else ''}{words}",
            method=method,
            headers={"Accept": "application/json"},
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        elif method == "POST":
            request.data = b""
        if self._token:
            # unredirected: never sent on to another address
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise UserError(f"{self._address}: {_detail(error)}") from None
        except urllib.error.URLError as error:
            raise UserError(
                f"{self._address}: cannot be reached: {error.reason}"
            ) from None
        except (OSError, ValueError) as error:
            raise UserError(f"{self._address}: no answer: {error}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An API that redirects is another site's, or asks a person to sign in."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


def _word(uuid: str) -> str:
    return urllib.parse.quote(uuid, safe="")


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.load(error)["detail"]
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"
    if isinstance(detail, list):  # a body that does not fit the schema
        first = detail[0]
        return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}"
    return str(detail)
