"""Who may use the server.

Without tokens the server answers processes of its own user alone, over the loopback,
where the kernel tells whose socket the other end is. With tokens it answers whoever
holds one: programs send it as a bearer token, browsers give it once and get a cookie.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from dathvd.errors import UserError
from dathvd.files import explain_os_errors, make_folder

SESSION_SECONDS = 7 * 86400.0
"""How long a browser stays signed in."""
_TOKEN_BYTES = 32


def default_token_file() -> Path:
    """``$XDG_CONFIG_HOME/dathvd/tokens.json``."""
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(config) / "dathvd" / "tokens.json"


def add_token(file: Path, name: str) -> str:
    """Make a token and keep its hash under a name; the token, which nobody else has.

    Raises:
        UserError: the file cannot be read or written.
    """
    hashes = read_hashes(file)
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    hashes[name] = digest(token)
    make_folder(file.parent)
    with explain_os_errors("write", file):
        # made readable for its owner alone before anything is in it
        partial = file.with_name(f".{file.name}.new")
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(hashes, stream, indent=2)
        os.replace(partial, file)
    return token


def read_hashes(file: Path) -> dict[str, str]:
    """The tokens' hashes by name; none where there is no file.

    Raises:
        UserError: the file is not one of tokens, or others may read it.
    """
    if not file.exists():
        return {}
    with explain_os_errors("read", file):
        if file.stat().st_mode & 0o077:
            raise UserError(f"{file}: others can read it; chmod 600 {file}")
        text = file.read_text(encoding="utf-8")
    try:
        hashes = json.loads(text)
    except ValueError:
        hashes = None
    if not isinstance(hashes, dict) or not all(
        isinstance(value, str) for value in hashes.values()
    ):
        raise UserError(f"{file}: not a file of dathvd's tokens")
    return hashes


def digest(token: str) -> str:
    """SHA-256 in hex. Tokens are long and random: no slow hash is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class Gate:
    """Decides which requests are let in.

    Args:
        hashes: of the tokens; without any, the loopback's same user is let in.
    """

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = tuple(hashes)
        self._sessions: dict[str, float] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether a token is needed."""
        return bool(self._hashes)

    def knows(self, token: str) -> bool:
        """Whether it is one of the tokens; takes as long for any that is not."""
        own = digest(token)
        matches = [hmac.compare_digest(own, each) for each in self._hashes]
        return any(matches)

    def sign_in(self) -> str:
        """The value of a new session's cookie."""
        now = time.time()
        self._sessions = {k: v for k, v in self._sessions.items() if v > now}
        session = secrets.token_urlsafe(_TOKEN_BYTES)
        self._sessions[digest(session)] = now + SESSION_SECONDS
        return session

    def sign_out(self, session: str) -> None:
        """Forget a session."""
        self._sessions.pop(digest(session), None)

    def is_signed_in(self, session: str) -> bool:
        """Whether the cookie is that of a session that has not ended."""
        return self._sessions.get(digest(session), 0.0) > time.time()


def is_same_user(server: tuple[str, int], client: tuple[str, int]) -> bool:
    """Whether the other end of a loopback connection is this user's, or root's.

    Args:
        server: address and port at this end.
        client: address and port at the other end.
    """
    table = Path("/proc/net/tcp6" if ":" in client[0] else "/proc/net/tcp")
    ends = f":{client[1]:04X}", f":{server[1]:04X}"
    try:
        lines = table.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    for line in lines:
        words = line.split()
        if words[1].endswith(ends[0]) and words[2].endswith(ends[1]):
            return int(words[7]) in (0, os.getuid())
    return False
