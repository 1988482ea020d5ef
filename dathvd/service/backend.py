"""What answers the commands: the server of ``DATHVD_SERVER``, or this machine."""

from __future__ import annotations

from dathvd.client import Client
from dathvd.service.here import Here


def backend() -> Client | Here:
    """The client of ``DATHVD_SERVER``, else this machine's runs.

    Raises:
        UserError: the token's file or the index cannot be read.
    """
    return Client.from_environment() or Here()
