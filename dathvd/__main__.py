"""Entry point: runs a command and turns a user's error into one line and exit 2."""

from __future__ import annotations

import sys

import click

from dathvd.cli import cli
from dathvd.errors import UserError


def main() -> None:
    """Run ``dathvd`` with the process's arguments."""
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        _report(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _report(error.format_message())
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _report(message: str) -> None:
    from dathvd.ranks import wait_for_root_to_report

    wait_for_root_to_report()
    print(f"dathvd: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
