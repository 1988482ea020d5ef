"""Running the server."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from dathvd.errors import UserError
from dathvd.files import explain_os_errors
from dathvd.service.server.app import create_app
from dathvd.service.server.settings import ServerSettings


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM; says where, once it listens.

    Raises:
        UserError: the settings are refused, or the address is in use.
    """
    import uvicorn

    app = create_app(settings)
    listening = _listen(settings)
    scheme = "https" if settings.tls_certificate else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    port = listening.getsockname()[1]
    print(f"dathvd serves {scheme}://{host}:{port}/", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses may be followed by what a person searched for
        proxy_headers=settings.behind_proxy,
        server_header=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        reason = error.strerror or str(error)
        where = f"--host {settings.host} --port {settings.port}"
        raise UserError(f"{where}: {reason}") from None
    listening.listen(128)
    return listening


def read_urls(file: Path) -> tuple[str, ...]:
    """The lines of a file of Apprise URLs, which are secrets.

    Raises:
        UserError: the file cannot be read.
    """
    with explain_os_errors("read", file):
        if file.stat().st_mode & 0o077:
            message = f"{file}: others can read it; chmod 600 {file}"
            print(f"dathvd: warning: {message}", file=sys.stderr)
        lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and line[0] != "#")
