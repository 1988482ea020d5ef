"""Entry point: runs a command and turns a user's error into one line and exit 2."""

from __future__ import annotations

import sys

import click

from dathvd import collector
from dathvd.cli import cli
from dathvd.errors import UserError, error_line
from dathvd.ranks import launched_rank, wait_for_root_to_report


def main() -> None:
    """Run ``dathvd`` with the process's arguments."""
    collector.end_without_search()
    try:
        code = cli.main(standalone_mode=False)
    except UserError as error:
        if not error.told:
            _report(str(error), silent=error.agreed and launched_rank() > 0)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _report(error.format_message())
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _report(message: str, silent: bool = False) -> None:
    wait_for_root_to_report()
    if not silent:
        print(error_line(message), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
