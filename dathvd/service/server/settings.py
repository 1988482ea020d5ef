"""What a server is started with, and which combinations are refused."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from dathvd.errors import UserError
from dathvd.service.server.auth import default_token_file, read_hashes


@dataclass(frozen=True)
class ServerSettings:
    """Where the server listens, what it shows, and to whom."""

    host: str = "127.0.0.1"
    port: int = 8421
    database: str | None = None
    """The index's URL; None takes ``catalogue.default_url()``."""
    root: Path = Path("runs")
    """Where runs that are submitted through the server are kept."""
    token_file: Path | None = None
    """Hashes of tokens; None takes the user's own file."""
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    """A proxy in front of the server ends TLS."""
    names: tuple[str, ...] = ()
    """Further host names by which the server is called."""
    trust: bool = False
    """Whether what is submitted may name components outside of dathvd: whoever may
    submit can then run any code that this server's Python can import."""
    notify: tuple[str, ...] = ()
    """Apprise URLs that are told of changes of state."""
    refresh_seconds: float = 2.0
    """How often the states of runs that have not ended are observed."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers speak TLS to it."""
        return self.tls_certificate is not None or self.behind_proxy

    def token_hashes(self) -> dict[str, str]:
        """The hashes of the tokens that let in, by name.

        Raises:
            UserError: the file is not usable.
        """
        if self.token_file is not None and not self.token_file.exists():
            raise UserError(f"--token-file {self.token_file}: there is no such file")
        return read_hashes(self.token_file or default_token_file())

    def allowed_hosts(self) -> tuple[str, ...]:
        """What a request's Host header may name: other names are another site's."""
        return ("localhost", "127.0.0.1", "[::1]", "::1", self.host, *self.names)


def check(settings: ServerSettings) -> None:
    """Refuse what would let strangers in.

    Raises:
        UserError: the address is reachable from other machines without a token or
            without TLS, or a file is missing.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise UserError("--tls-certificate and --tls-key belong together")
    for file in (settings.tls_certificate, settings.tls_key):
        if file is not None and not file.is_file():
            raise UserError(f"{file}: there is no such file")
    if settings.is_loopback:
        return
    if not settings.token_hashes():
        raise UserError(
            f"--host {settings.host}: other machines could reach it, so it needs a "
            "token (dathvd serve --new-token NAME makes one)"
        )
    if not settings.is_encrypted:
        raise UserError(
            f"--host {settings.host}: tokens would travel in the clear; give "
            "--tls-certificate and --tls-key, or --behind-proxy where a proxy ends TLS"
        )
