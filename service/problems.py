"""Errors as RFC 9457 ``application/problem+json``: what was wrong, what was expected, what came."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

MEDIA_TYPE = "application/problem+json"
LONGEST_CAME = 200  # characters of the caller's value that an error repeats

logger = logging.getLogger(__name__)


class FieldError(BaseModel):
    """One field that was not as expected."""

    field: str = Field(description="dotted path into the body, the query or the path")
    message: str = Field(description="what was expected")
    came: str = Field(description="what came, as JSON, cut when long")


class Problem(BaseModel):
    """RFC 9457. ``type`` is stable and meant for programs, ``detail`` is meant for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:recsys:problem:validation",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "limit: Input should be less than or equal to 100, came 5000",
                "instance": "/v1/recommendations",
                "errors": [{"field": "limit", "message": "Input should be less than or equal to 100", "came": "5000"}],
            }
        }
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = []


class ProblemError(HTTPException):
    """Raise it anywhere below a route: the caller gets a problem of kind ``urn:recsys:problem:<kind>``."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, headers)
        self.kind = kind
        self.errors = errors


def field_errors(errors: Sequence[Mapping[str, Any]], *, skip: int = 0) -> list[FieldError]:
    """Pydantic's errors in our words.

    Args:
        errors: of ``ValidationError.errors()``.
        skip: how many leading parts of each location to leave out ("body", say).
    """
    found = []
    for error in errors:
        path = [str(part) for part in error["loc"][skip:]]
        if error["type"] == "missing":
            message, came = "expected this field", "nothing"
        elif error["type"] == "extra_forbidden":
            message, came = "this field is not known here", show(error["input"])
        else:
            message, came = error["msg"].removeprefix("Value error, "), show(error["input"])
        found.append(FieldError(field=".".join(path) or "body", message=message, came=came))
    return found


def sentence(errors: list[FieldError]) -> str:
    """All of them on one line, for people."""
    return "; ".join(f"{error.field}: {error.message}, came {error.came}" for error in errors)


def show(value: object) -> str:
    """A caller's value for an error message: JSON, safe to encode, cut when long."""
    try:
        text = json.dumps(value, default=repr)  # ASCII only, so that a lone surrogate does no harm in the answer
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_CAME else text[:LONGEST_CAME] + "…"


def problem_response(
    status: int,
    kind: str,
    detail: str,
    instance: str,
    errors: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """The answer to send."""
    problem = Problem(
        type=f"urn:recsys:problem:{kind}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=instance,
        errors=errors or [],
    )
    return JSONResponse(problem.model_dump(), status, headers, MEDIA_TYPE)


def _methods(app: FastAPI, path: str) -> list[str]:
    """What the described paths answer there."""
    described = app.openapi()["paths"].items()
    return sorted(
        {
            method.upper()
            for template, methods in described
            if compile_path(template.replace("}", ":path}"))[0].match(path)  # ids may hold slashes
            for method in methods
        }
    )


def install(app: FastAPI) -> None:
    """Make every error of ``app`` a problem."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        headers = dict(error.headers) if error.headers else None
        if isinstance(error, ProblemError):
            return problem_response(error.status_code, error.kind, error.detail, path, list(error.errors), headers)
        details = {
            400: ("not-json", "the body is not JSON"),
            404: ("unknown-path", f"there is no {path}; /docs lists what there is"),
            405: ("method-not-allowed", f"{path} does not answer {request.method}; /docs lists what it does"),
        }
        kind, detail = details.get(error.status_code, ("http-error", str(error.detail)))
        if error.status_code == 405 and (methods := _methods(app, path)):
            headers = {"Allow": ", ".join(methods)}  # Starlette names those of one route only
        return problem_response(error.status_code, kind, detail, path, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        path, found = request.url.path, list(error.errors())
        if found and found[0]["type"] == "json_invalid":
            position, reason = found[0]["loc"][1], found[0]["ctx"]["error"]
            detail = f"the body is not JSON: {reason} at character {position}"
            came = show(str(error.body)[max(0, int(position) - 20) : int(position) + 20])
            errors = [FieldError(field="body", message=f"expected JSON: {reason}", came=came)]
            return problem_response(400, "not-json", detail, path, errors)
        if found and found[0]["loc"] == ("body",) and isinstance(found[0]["input"], bytes):
            # FastAPI reads a body as JSON only where the header says so; `curl -d` alone says that it is a form.
            said = request.headers.get("content-type")
            came = "none" if said is None else show(said)
            detail = f"expected the header Content-Type: application/json, came {came}"
            return problem_response(415, "not-json", detail, path)
        errors = field_errors(found, skip=1)
        return problem_response(422, "validation", sentence(errors), path, errors)

    async def database_down(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s: the database did not answer: %s", request.method, request.url.path, error)
        detail = "the database did not answer and nothing was stored; try again"
        return problem_response(503, "database-unavailable", detail, request.url.path, headers={"Retry-After": "1"})

    for kind_of_error in (OperationalError, InterfaceError, TimeoutError):
        app.add_exception_handler(kind_of_error, database_down)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again after this answer, so that the server logs the traceback.
        detail = "something went wrong on our side; the service's log has the details"
        return problem_response(500, "internal", detail, request.url.path)
