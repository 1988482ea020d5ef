"""Which of the submitter's environment variables an engine hands on to a job."""

from __future__ import annotations

from collections.abc import Mapping

from dathvd.errors import UserError
from dathvd.launch.environment import for_engine
from dathvd.service.record import Job

EXPORT = "Further environment variables for the ranks, as NAME,NAME."
"""Help of the option ``export``."""


def asked_for(job: Job) -> list[str]:
    """The names that the job's option ``export`` adds."""
    return [name for name in job.options.get("export", "").split(",") if name]


def exported(job: Job, environ: Mapping[str, str]) -> str:
    """The names of the variables that the job gets, joined by commas; never all.

    Raises:
        UserError: one that is asked for is not set.
    """
    try:
        return ",".join(for_engine(environ, asked_for(job)))
    except UserError as error:
        raise UserError(f"--option export: {error}") from None
