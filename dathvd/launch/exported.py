"""Prints the names of the variables that a batch engine is to hand on to a job.

``python -P -m dathvd.launch.exported [NAME ...]`` prints those of the exact list that
are set, and NAMEs, joined by commas as ``srun --export`` and ``bsub -env`` take them.
"""

from __future__ import annotations

import os
import sys

from dathvd.errors import UserError
from dathvd.launch.environment import for_engine


def main() -> None:
    """Print the line; exit code 2 where a NAME is not set."""
    try:
        print(",".join(for_engine(os.environ, sys.argv[1:])))
    except UserError as error:
        print(f"dathvd: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
