"""The web application: the gate before it, its routes, and what it does meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from dathvd import __version__
from dathvd.errors import UserError
from dathvd.service.catalogue import Catalogue, IndexUnavailable
from dathvd.service.engines.base import Unreachable
from dathvd.service.server import api, pages
from dathvd.service.server.auth import Gate, is_same_user
from dathvd.service.server.background import Refresher
from dathvd.service.server.doctor import Doctor
from dathvd.service.server.prometheus import exposition
from dathvd.service.server.settings import ServerSettings, check

COOKIE = "dathvd-session"
_OPEN = ("/healthz", "/login", "/static/")
"""Paths that need no token: they tell nothing and change nothing."""
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_STALE_SECONDS = 60.0


def create_app(settings: ServerSettings) -> FastAPI:
    """The application.

    Raises:
        UserError: the settings would let strangers in, or the index cannot be opened.
    """
    check(settings)
    catalogue = Catalogue(settings.database)
    gate = Gate(settings.token_hashes().values())
    refresher = Refresher(
        catalogue, settings.refresh_seconds, settings.notify, settings.root
    )

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        refresher.start()
        yield
        refresher.stop()
        catalogue.close()

    app = FastAPI(
        title="dathvd",
        version=__version__,
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=life,
    )
    app.state.catalogue = catalogue
    app.state.settings = settings
    app.state.gate = gate
    app.state.doctor = Doctor()
    app.include_router(api.router)
    app.include_router(pages.router)
    folder = Path(__file__).with_name("static")
    app.mount("/static", StaticFiles(directory=folder), name="static")
    _add_machine_routes(app, catalogue, refresher)
    _add_error_handlers(app)
    _add_gate(app, settings, gate)
    return app


def _add_machine_routes(
    app: FastAPI, catalogue: Catalogue, refresher: Refresher
) -> None:
    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> Response:
        """Metrics for Prometheus."""
        kind = "text/plain; version=0.0.4; charset=utf-8"
        return Response(exposition(catalogue), media_type=kind)

    @app.get("/healthz")
    def health() -> JSONResponse:
        """Whether the server observes runs; 503 where it has not for a minute."""
        age = time.time() - refresher.last_success
        limit = max(_STALE_SECONDS, 5 * app.state.settings.refresh_seconds)
        return JSONResponse({"ok": age < limit}, 200 if age < limit else 503)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(UserError)
    def user_error(request: Request, error: UserError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(IndexUnavailable)
    def no_index(request: Request, error: IndexUnavailable) -> Response:
        return JSONResponse({"detail": str(error)}, 503)

    @app.exception_handler(Unreachable)
    def unreachable(request: Request, error: Unreachable) -> Response:
        return JSONResponse({"detail": f"the engine did not answer: {error}"}, 503)


Next = Callable[[Request], Awaitable[Response]]


def _add_gate(app: FastAPI, settings: ServerSettings, gate: Gate) -> None:
    hosts = {name.lower() for name in settings.allowed_hosts()}

    @app.middleware("http")
    async def guard(request: Request, call_next: Next) -> Response:
        refusal = _refusal(request, settings, gate, hosts)
        response = refusal if refusal is not None else await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        if not request.url.path.startswith("/static/"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response


def _refusal(
    request: Request, settings: ServerSettings, gate: Gate, hosts: set[str]
) -> Response | None:
    """Why the request is turned away; None lets it in."""
    host = _host_name(request.headers.get("host", ""))
    if host not in hosts:
        return JSONResponse({"detail": f"unknown host {host!r} (--name adds it)"}, 421)
    writes = request.method not in _SAFE_METHODS
    origin = request.headers.get("origin")
    if writes and origin is not None:
        if urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
            return JSONResponse({"detail": "another site's page cannot do this"}, 403)
    if request.url.path.startswith(_OPEN):
        return None
    if not gate.has_tokens:
        client, server = request.client, request.scope.get("server")
        if client is not None and server is not None:
            ends = (server[0], server[1] or settings.port), (client.host, client.port)
            if is_same_user(*ends):
                # a browser always names the origin of what it writes
                return None
        detail = "only the user who started this server may use it"
        return JSONResponse({"detail": detail}, 403)
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and gate.knows(token.strip()):
        return None
    session = request.cookies.get(COOKIE)
    if session and gate.is_signed_in(session):
        if not writes or origin is not None:
            return None
        return JSONResponse({"detail": "a write by cookie needs its origin"}, 403)
    if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return RedirectResponse("/login", 303)
    return JSONResponse(
        {"detail": "a token is needed"}, 401, {"WWW-Authenticate": "Bearer"}
    )


def _host_name(header: str) -> str:
    """The name in a Host header, without the port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]
