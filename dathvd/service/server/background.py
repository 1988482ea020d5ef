"""What the server does by itself: observe runs that have not ended, and tell of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dathvd.errors import UserError
from dathvd.service.catalogue import Catalogue, Query
from dathvd.service.engines.base import Unreachable
from dathvd.service.status import SUBMITTING
from dathvd.service.submission import complete

_LOG = logging.getLogger(__name__)
DISCOVER_SECONDS = 10.0
"""How often the root is searched for runs that are not in the index."""


class Refresher:
    """A thread that keeps the index true and notifies of changes of state.

    Args:
        catalogue: the index.
        seconds: how often the runs that have not ended are observed.
        notify: Apprise URLs, which may hold secrets and are never logged.
        root: where to look for runs that are not in the index, and for submissions of a
            server that was killed, which are completed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        seconds: float,
        notify: Sequence[str],
        root: Path | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._root = root
        self._looked = -DISCOVER_SECONDS
        self._seconds = seconds
        self._states: dict[str, str] | None = None
        self._over = threading.Event()
        self._messenger = _messenger(notify) if notify else None
        self.last_success = time.time()
        """When the runs were last observed, in seconds since 1970."""
        self._thread = threading.Thread(target=self._run, name="refresh", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the observation that is under way."""
        self._over.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._discover()
                self._catalogue.refresh()
                self._tell_changes(self._catalogue.recent_states())
                self.last_success = time.time()
            except UserError as error:
                _LOG.warning("%s", error)
            self._over.wait(self._seconds)

    def _discover(self) -> None:
        """Now and then, index what others left below the root."""
        now = time.monotonic()
        if self._root is None or now - self._looked < DISCOVER_SECONDS:
            return
        self._catalogue.discover(self._root)
        self._looked = now
        queued, _ = self._catalogue.select(Query(("queued",)), refresh=True)
        for run in queued:
            if run["status"]["reason"] == SUBMITTING:
                _complete(Path(run["run"]))

    def _tell_changes(self, states: Mapping[str, str]) -> None:
        before, self._states = self._states, dict(states)
        if before is None or self._messenger is None:
            return
        for run, state in states.items():
            old = before.get(run)
            if old != state:
                name = Path(run).name
                title = f"dathvd: {name} is {state}"
                body = f"{run}: {old or 'new'} → {state}"
                if not self._messenger(title, body):
                    _LOG.warning("a notification of %s could not be sent", name)


def _complete(run: Path) -> None:
    try:
        if complete(run):
            _LOG.warning("the submission of %s was cut off and is completed", run.name)
    except (UserError, Unreachable) as error:
        _LOG.warning("the submission of %s was cut off: %s", run.name, error)


def _messenger(urls: Sequence[str]) -> Callable[[str, str], bool]:
    """A function of (title, body) that sends to all of the URLs.

    Raises:
        UserError: a URL is not one that Apprise knows.
    """
    from apprise import Apprise

    apprise = Apprise()
    for number, url in enumerate(urls, start=1):
        if not apprise.add(url):
            raise UserError(f"--notify: URL {number} is not one that Apprise knows")

    def send(title: str, body: str) -> bool:
        return bool(apprise.notify(title=title, body=body))

    return send
