"""Pieces of work that workers take one after another, each when it has time.

Rank 0 hands out numbers: a worker on a slow or busy host, or with long pieces, takes
fewer of them. Who did a piece must not matter for its result.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import torch

from dathvd.runtime import Runtime, from_root, gather_json, sum_over_workers

_CONNECT, _ANSWER = 5.0, 60.0
"""Seconds that a worker waits for rank 0's port, and for its answer."""


def share_out(runtime: Runtime, count: int, work: Callable[[int], None]) -> None:
    """Do all pieces below ``count``, each on one worker; every rank calls it.

    Rank 0 opens a port while there are other workers; numbers are given for a token
    that this job alone knows. Where a worker cannot reach it, pieces go round robin.
    Nothing is lost: pieces that nobody reports as done are done in a second round.

    Args:
        runtime: this worker's place.
        count: of the pieces; equal on all ranks.
        work: does the piece of that number.
    """
    done = torch.zeros(count, dtype=torch.int32)
    with _numbers(runtime, count) as numbers:
        for number in numbers:
            work(number)
            done[number] = 1
        done = sum_over_workers(runtime, done, "work.done")
    for number in (
        (done == 0).nonzero().flatten().tolist()[runtime.rank :: runtime.size]
    ):
        work(number)


class _Counter:
    """The next number below ``count``; for threads."""

    def __init__(self, count: int) -> None:
        self._left, self._lock = iter(range(count)), threading.Lock()

    def take(self) -> int | None:
        with self._lock:
            return next(self._left, None)


class _Server(socketserver.ThreadingTCPServer):
    """Answers a line that holds the token by the next number, or by an empty line."""

    daemon_threads = True

    def __init__(self, counter: _Counter, token: str) -> None:
        self.counter, self.token = counter, token
        super().__init__(("", 0), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    timeout = _ANSWER

    def handle(self) -> None:
        given = self.rfile.readline(256).strip()
        if secrets.compare_digest(given, self.server.token.encode()):
            number = self.server.counter.take()
            self.wfile.write(b"\n" if number is None else f"{number}\n".encode())


@contextlib.contextmanager
def _numbers(runtime: Runtime, count: int) -> Iterator[Iterator[int]]:
    """This worker's numbers, as it asks for them."""
    if runtime.size == 1:
        yield iter(range(count))
        return
    counter, token = _Counter(count), secrets.token_hex(16)
    server = _Server(counter, token) if runtime.is_root else None
    try:
        if server is not None:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        port = 0 if server is None else int(server.server_address[1])
        place = json.dumps([socket.gethostname(), port, token])
        name, port, token = json.loads(from_root(runtime, place))
        host = "127.0.0.1" if name == socket.gethostname() else str(name)
        reached = server is not None or _reaches(host, port)
        if not all(gather_json(reached, "work.reached", runtime.size)):
            yield iter(range(runtime.rank, count, runtime.size))
        elif server is not None:
            yield _taken(counter.take)
        else:
            yield _taken(lambda: _ask(host, port, token))
    finally:
        if server is not None:
            server.shutdown()
            server.server_close()


def _taken(take: Callable[[], int | None]) -> Iterator[int]:
    while (number := take()) is not None:
        yield number


def _reaches(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_CONNECT):
            return True
    except OSError:
        return False


def _ask(host: str, port: int, token: str) -> int | None:
    """The next number; None where there is none, or nobody answers any more."""
    try:
        with socket.create_connection((host, port), timeout=_ANSWER) as line:
            line.sendall(f"{token}\n".encode())
            answer = line.makefile().readline().strip()
    except OSError:
        return None
    return int(answer) if answer else None
