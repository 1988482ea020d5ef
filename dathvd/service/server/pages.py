"""The pages: rendered here, brought to life by a little JavaScript of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, get_args

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from dathvd.config import Config
from dathvd.errors import UserError
from dathvd.service import files
from dathvd.service.catalogue import Query as RunQuery
from dathvd.service.comparison import compare, flatten, short_names, summarise
from dathvd.service.engines import ENGINES, build_engine
from dathvd.service.observe import observe_all
from dathvd.service.server.api import (
    Index,
    Settings,
    Submission,
    Uuid,
    folders_of,
    observation,
    submit,
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
    return _form(request, {}, {}, "")


@router.post("/submit")
async def submit_form(request: Request, index: Index, server: Settings) -> Response:
    """Submit what the form says, or show it again with the error at its field."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    changed = {
        name.removeprefix("field."): value
        for name, value in form.items()
        if name.startswith("field.") and value.strip()
    }
    try:
        body = Submission(
            overrides=[f"{name}={value}" for name, value in changed.items()],
            engine=form.get("engine", "local"),
            num_proc=int(form.get("num_proc") or 1),
            grid=form.get("grid", "").split(),
            seeds=[int(word) for word in form.get("seeds", "").split(",") if word],
            group=form.get("group") or None,
        )
        runs = submit(body, index, server)
    except (UserError, ValueError) as error:
        line = str(error).splitlines()[0]
        return _form(request, form, changed, line, status=422)
    if len(runs) == 1:
        return RedirectResponse(f"/runs/{runs[0]['job']['uuid']}", 303)
    return RedirectResponse(f"/?group={runs[0]['job']['group']}", 303)


def _form(
    request: Request,
    form: dict[str, str],
    changed: dict[str, str],
    error: str,
    status: int = 200,
) -> Response:
    field = next((name for name in fields_by_name() if f"{name}:" in error), "")
    context = {
        "sections": form_sections(),
        "engines": list(ENGINES),
        "options": {name: build_engine(name).option_names for name in ENGINES},
        "form": form,
        "changed": changed,
        "error": error,
        "error_field": field,
    }
    return templates.TemplateResponse(request, "submit.html", context, status)


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


def fields_by_name() -> dict[str, dict[str, Any]]:
    """The form's fields by name, such as ``attack.epsilon``."""
    return {
        field["name"]: field
        for section in form_sections()
        for field in section["fields"]
    }


def form_sections() -> list[dict[str, Any]]:
    """The sections of the configuration's schema as sections of a form."""
    schema = Config.model_json_schema()
    defaults = Config().model_dump(mode="json")
    sections = []
    own = []
    for name, entry in schema["properties"].items():
        section = _resolve(schema, entry)
        if "properties" not in section:
            own.append(_field(name, section, defaults[name]))
            continue
        fields = _fields(schema, section, f"{name}.", defaults[name])
        sections.append(
            {"name": name, "help": section.get("description", ""), "fields": fields}
        )
    return [{"name": "run", "help": "", "fields": own}, *sections]


def _fields(
    schema: dict[str, Any], section: dict[str, Any], prefix: str, defaults: Any
) -> list[dict[str, Any]]:
    found = []
    for name, entry in section["properties"].items():
        inner = _resolve(schema, entry)
        default = defaults.get(name) if isinstance(defaults, dict) else None
        if "properties" in inner:
            found += _fields(schema, inner, f"{prefix}{name}.", default)
        else:
            found.append(_field(prefix + name, {**inner, **entry}, default))
    return found


def _field(name: str, entry: dict[str, Any], default: Any) -> dict[str, Any]:
    choices = entry.get("enum")
    for option in entry.get("anyOf", []):
        choices = choices or option.get("enum")
    text = default if isinstance(default, str) else json.dumps(default)
    return {
        "name": name,
        "help": " ".join(entry.get("description", "").split()),
        "choices": choices,
        "default": "" if default is None else text,
    }


def _resolve(schema: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    for part in (entry, *entry.get("allOf", []), *entry.get("anyOf", [])):
        if "$ref" in part:
            found: dict[str, Any] = schema["$defs"][part["$ref"].rpartition("/")[2]]
            return found
    return entry
