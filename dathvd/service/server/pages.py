"""The pages: rendered here, brought to life by a little JavaScript of our own."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, get_args

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from dathvd.errors import UserError
from dathvd.service import files
from dathvd.service.catalogue import Query as RunQuery
from dathvd.service.comparison import compare, flatten, short_names, summarise
from dathvd.service.engines import ENGINES, build_engine
from dathvd.service.engines.tickets import num_slots
from dathvd.service.observe import observe_all
from dathvd.service.server.api import (
    Index,
    Settings,
    TheDoctor,
    Uuid,
    folders_of,
    observation,
    submit,
)
from dathvd.service.server.form import (
    changed_fields,
    field_of,
    form_sections,
    submission_of,
)
from dathvd.service.status import ENDED, State
from dathvd.service.tables import age, duration

PAGE = 50
"""Runs on a page of the list."""
router = APIRouter(default_response_class=HTMLResponse, include_in_schema=False)
templates = Jinja2Templates(directory=Path(__file__).with_name("templates"))
templates.env.filters["age"] = age
templates.env.filters["duration"] = duration
templates.env.filters["basename"] = lambda path: Path(path).name
templates.env.filters["percent"] = lambda share, digits=1: (
    "" if share is None else f"{100 * share:.{digits}f} %"
)


@router.get("/")
def runs_page(
    request: Request,
    index: Index,
    state: str = "",
    group: str = "",
    text: str = "",
    oldest: bool = False,
    page: Annotated[int, Query(ge=1)] = 1,
) -> Response:
    """The list: filter, order, pages, choice of runs to compare."""
    query = RunQuery(
        (state,) if state else (),
        group or None,
        text or None,
        PAGE,
        PAGE * (page - 1),
        oldest,
    )
    runs, total = index.select(query, refresh=False)
    counts = index.count_states()
    context = {
        "runs": runs,
        "total": total,
        "page": page,
        "pages": max(1, -(-total // PAGE)),
        "states": [(name, counts.get(name, 0)) for name in get_args(State)],
        "chosen": {"state": state, "group": group, "text": text, "oldest": oldest},
    }
    return templates.TemplateResponse(request, "runs.html", context)


@router.get("/runs/{uuid}")
def run_page(request: Request, uuid: Uuid, index: Index) -> Response:
    """One run: state, curves, logs, pictures, buttons."""
    seen = observation(index, uuid)
    run = Path(seen.run)
    checkpoints = run / "checkpoints"
    context = {
        "run": seen.to_json(),
        "ended": seen.state in ENDED,
        "ranks": files.log_names(run),
        "pictures": [
            name
            for name, kind in files.SHOWN.items()
            if kind == "image/png" and (run / name).is_file()
        ],
        "checkpoints": (
            sorted(p.name for p in checkpoints.iterdir() if not p.name.startswith("."))
            if checkpoints.is_dir()
            else []
        ),
        "config": flatten(seen.job.config or {}),
    }
    return templates.TemplateResponse(request, "run.html", context)


@router.get("/compare")
def compare_page(
    request: Request,
    index: Index,
    uuid: Annotated[list[Uuid], Query()] = [],
    group: str = "",
) -> Response:
    """Curves over one another, and the fields in which configurations differ."""
    folders = folders_of(index, uuid, group or None)
    compared = compare(observe_all(folders))
    context = {
        "compared": compared,
        "runs": [run.to_json() for run in compared.runs],
        "summaries": summarise(compared),
        "names": short_names(compared),
        "group": group,
    }
    return templates.TemplateResponse(request, "compare.html", context)


@router.get("/submit")
def submit_page(request: Request) -> Response:
    """The form, made from the configuration's schema."""
    return _form(request, {}, "")


@router.post("/submit")
async def submit_form(request: Request, index: Index, server: Settings) -> Response:
    """Submit what the form says, or show it again with the error at its field."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    try:
        runs = submit(submission_of(form), index, server)
    except (UserError, HTTPException) as error:
        line = error.detail if isinstance(error, HTTPException) else str(error)
        return _form(request, form, line.splitlines()[0], status=422)
    if len(runs) == 1:
        return RedirectResponse(f"/runs/{runs[0]['job']['uuid']}", 303)
    return RedirectResponse(f"/?group={runs[0]['job']['group']}", 303)


def _form(
    request: Request, form: dict[str, str], error: str, status: int = 200
) -> Response:
    context = {
        "sections": form_sections(),
        "engines": {name: build_engine(name).option_names for name in ENGINES},
        "form": form,
        "changed": changed_fields(form),
        "error": error,
        "error_field": field_of(error),
    }
    return templates.TemplateResponse(request, "submit.html", context, status)


@router.get("/doctor")
def doctor_page(request: Request, doctor: TheDoctor) -> Response:
    """What the doctor found; the first look has it begin."""
    if doctor.last is None:
        doctor.begin()
    slots = num_slots()
    context = {
        "host": platform.node(),
        "busy": doctor.is_busy,
        "last": doctor.last,
        "choices": sorted({0, min(2, slots), slots} - {1}),
    }
    return templates.TemplateResponse(request, "doctor.html", context)


@router.get("/login")
def login_page(request: Request) -> Response:
    """Asks for a token."""
    return templates.TemplateResponse(request, "login.html", {"error": ""})


@router.post("/login")
def login(
    request: Request, server: Settings, token: Annotated[str, Form()] = ""
) -> Response:
    """Exchange a token for a session."""
    gate = request.app.state.gate
    if not gate.knows(token.strip()):
        context = {"error": "this is not one of the server's tokens"}
        return templates.TemplateResponse(request, "login.html", context, 401)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        "dathvd-session",
        gate.sign_in(),
        httponly=True,
        samesite="strict",
        secure=server.is_encrypted,
    )
    return response


@router.post("/logout")
def logout(request: Request) -> Response:
    """End the session."""
    request.app.state.gate.sign_out(request.cookies.get("dathvd-session", ""))
    response = RedirectResponse("/login", 303)
    response.delete_cookie("dathvd-session")
    return response
