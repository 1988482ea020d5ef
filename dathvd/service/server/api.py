"""The HTTP API: what the page and ``dathvd.client`` speak."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from dathvd.config import Config
from dathvd.errors import UserError
from dathvd.service import files, submission
from dathvd.service.catalogue import Catalogue
from dathvd.service.catalogue import Query as RunQuery
from dathvd.service.engines import ENGINES, build_engine
from dathvd.service.engines.tickets import num_slots
from dathvd.service.here import comparison_json
from dathvd.service.observe import Observation, observe_all
from dathvd.service.server.doctor import Doctor
from dathvd.service.server.settings import ServerSettings

router = APIRouter(prefix="/api")
_LOG = logging.getLogger(__name__)
Uuid = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Submission(BaseModel):
    """A training to submit: a configuration, never a command."""

    overrides: list[str] = []
    """``section.field=value`` over the defaults."""
    engine: str = "local"
    num_proc: int = Field(default=1, ge=1)
    options: dict[str, str] = {}
    grid: list[str] = []
    """Each ``section.field=value,value,…``: every combination is submitted."""
    seeds: list[int] = []
    group: str | None = None
    after: Uuid | None = None


class RunList(BaseModel):
    """A page of runs, and how many there are in all."""

    runs: list[dict[str, Any]]
    total: int


class LogPart(BaseModel):
    """A piece of a log, and the place behind it."""

    text: str
    next: int


def catalogue(request: Request) -> Catalogue:
    """The server's index."""
    found: Catalogue = request.app.state.catalogue
    return found


def settings(request: Request) -> ServerSettings:
    """What the server was started with."""
    found: ServerSettings = request.app.state.settings
    return found


def the_doctor(request: Request) -> Doctor:
    """The server's doctor."""
    found: Doctor = request.app.state.doctor
    return found


Index = Annotated[Catalogue, Depends(catalogue)]
Settings = Annotated[ServerSettings, Depends(settings)]
TheDoctor = Annotated[Doctor, Depends(the_doctor)]


def run_folder(index: Catalogue, uuid: str) -> Path:
    """The run folder of a job: runs are named by uuid alone, never by path.

    Raises:
        HTTPException: 404, there is no such job.
    """
    found = index.folder_of(uuid)
    if found is None:
        raise HTTPException(404, f"no run {uuid}")
    return found


def observation(index: Catalogue, uuid: str) -> Observation:
    """The job as it is now.

    Raises:
        HTTPException: 404, there is no such job, or its folder is gone.
    """
    seen = observe_all([run_folder(index, uuid)])
    if not seen:
        raise HTTPException(404, f"the folder of run {uuid} is gone")
    index.put(seen)
    return seen[0]


def enter(index: Catalogue, seen: list[Observation]) -> None:
    """Index runs that are submitted by now, whether the database answers or not: they
    are found again below the server's root."""
    try:
        index.put(seen)
    except UserError as error:
        _LOG.warning("%s", error)


@router.get("/runs")
def list_runs(
    index: Index,
    state: Annotated[list[str], Query()] = [],
    group: str | None = None,
    text: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> RunList:
    """Runs, newest first."""
    query = RunQuery(tuple(state), group or None, text or None, limit, offset)
    runs, total = index.select(query, refresh=False)
    return RunList(runs=runs, total=total)


@router.get("/find")
def find(name: Annotated[str, Query(min_length=1)], index: Index) -> list[str]:
    """The uuids of the runs whose uuid begins so, or whose folder ends so."""
    runs = observe_all([Path(run) for run in index.find(name)])
    return [run.job.uuid for run in runs]


@router.get("/runs/{uuid}")
def one_run(uuid: Uuid, index: Index) -> dict[str, Any]:
    """One run: its job, state, progress and accuracies."""
    return observation(index, uuid).to_json()


@router.get("/runs/{uuid}/metrics")
def metrics(uuid: Uuid, index: Index, after: int = -1) -> list[dict[str, Any]]:
    """Rows of metrics of later steps, thinned where there are very many."""
    return files.metrics_after(run_folder(index, uuid), after)


@router.get("/runs/{uuid}/log")
def log(
    uuid: Uuid,
    index: Index,
    rank: Annotated[int | None, Query(ge=0, le=99999)] = None,
    start: int = -65536,
) -> LogPart:
    """A log from a place on, in bytes; a negative place counts from the end."""
    text, place = files.log_part(run_folder(index, uuid), rank, start)
    return LogPart(text=text, next=place)


@router.get("/runs/{uuid}/ranks")
def ranks(uuid: Uuid, index: Index) -> list[int]:
    """The ranks that have a log."""
    return files.log_names(run_folder(index, uuid))


@router.get("/runs/{uuid}/files/{name}")
def shown_file(uuid: Uuid, name: str, index: Index) -> Response:
    """A picture, the configuration or the result."""
    content = files.read_shown(run_folder(index, uuid), name)
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
    return Response(content, media_type=files.SHOWN[name], headers=headers)


@router.post("/runs", status_code=201)
def submit(body: Submission, index: Index, server: Settings) -> list[dict[str, Any]]:
    """Submit a training, or one for each point of a grid."""
    arguments = ["train"]
    for entry in body.overrides:
        arguments += ["--set", entry]
    points = submission.expand(arguments, body.grid, body.seeds)
    group = body.group
    if len(points) > 1 and not group:
        group = submission.new_group()
    requests = [
        submission.Request(
            point,
            engine=body.engine,
            num_proc=body.num_proc,
            options=body.options,
            root=server.root,
            group=group,
            after=run_folder(index, body.after) if body.after else None,
        )
        for point in points
    ]
    for request in requests:
        config = submission.check(request)  # all, before the first is submitted
        if config is not None and config.foreign() and not server.trust:
            named = ", ".join(f"{k} {v}" for k, v in config.foreign().items())
            raise UserError(
                f"this server takes no code outside of dathvd ({named}); it would have "
                "to be started with --trust"
            )
    seen = observe_all([submission.submit(request) for request in requests])
    enter(index, seen)
    return [each.to_json() for each in seen]


@router.post("/runs/{uuid}/stop")
def stop(uuid: Uuid, index: Index, now: bool = False) -> dict[str, Any]:
    """End a run; it saves first unless ``now``."""
    submission.stop(run_folder(index, uuid), now=now)
    return observation(index, uuid).to_json()


@router.post("/runs/{uuid}/resume")
def resume(uuid: Uuid, index: Index) -> dict[str, Any]:
    """Go on with a run that ended, from its last checkpoint."""
    submission.resume(run_folder(index, uuid))
    return observation(index, uuid).to_json()


@router.post("/runs/{uuid}/retry", status_code=201)
def retry(uuid: Uuid, index: Index) -> dict[str, Any]:
    """Run a job that ended anew, in a folder beside the old one."""
    seen = observe_all([submission.retry(run_folder(index, uuid))])
    enter(index, seen)
    return seen[0].to_json()


@router.get("/compare")
def compare_runs(
    index: Index,
    uuid: Annotated[list[Uuid], Query()] = [],
    group: str | None = None,
) -> dict[str, Any]:
    """Differences of configurations beside accuracies."""
    return comparison_json([str(run) for run in folders_of(index, uuid, group)])


def folders_of(index: Catalogue, uuids: list[str], group: str | None) -> list[Path]:
    """The run folders of these uuids, or of a group, oldest first."""
    if group:
        query = RunQuery(group=group, limit=1000, oldest_first=True)
        runs, _ = index.select(query, refresh=False)
        return [Path(run["run"]) for run in runs]
    return [run_folder(index, uuid) for uuid in uuids]


@router.get("/config")
def config_schema() -> dict[str, Any]:
    """The JSON schema of configurations, from which forms are made."""
    return Config.model_json_schema()


@router.get("/engines")
def engines() -> dict[str, dict[str, str]]:
    """The engines, each with its options."""
    return {name: dict(build_engine(name).option_names) for name in ENGINES}


@router.get("/doctor")
def doctor_found(doctor: TheDoctor) -> dict[str, Any]:
    """The newest examination of the server's host and its engines."""
    last = None if doctor.last is None else doctor.last.to_json()
    return {"busy": doctor.is_busy, "last": last}


@router.post("/doctor", status_code=202)
def examine(
    doctor: TheDoctor, num_proc: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """Begin an examination, with ranks on the server's host that are compared."""
    if num_proc > num_slots():
        raise UserError(f"num_proc: this machine's queue has {num_slots()} slots")
    doctor.begin(num_proc)
    return doctor_found(doctor)
