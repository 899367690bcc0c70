"""What ``/openapi.json`` and ``/docs`` say."""

from typing import Any

from fastapi import FastAPI

from service.problems import MEDIA_TYPE, Problem
from service.schemas import SearchRequest

DESCRIPTION = """
What to show to a shopper, here, now.

* Ids are strings, the shop's own. Times are ISO 8601 with an offset, answered in UTC. Money is in cents.
* A field that a call does not know is refused, not passed over.
* Errors are RFC 9457 `application/problem+json`; `errors` names each field, what was expected and what came.
* `X-API-Key` carries a key with the scope `read` (recommendations, items), `write` (events, catalogue) or `admin`.
  A service that only its own machine can reach asks for none.
"""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problem, "description": "The request is not as expected"},
    "5XX": {"model": Problem, "description": "The service cannot answer now"},
}


def install(app: FastAPI) -> None:
    """Make the schema of ``app`` say that errors are problems, and nothing else."""
    generate = app.openapi

    def schema() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _with_problems(generate())
        return app.openapi_schema

    app.openapi = schema  # type: ignore[method-assign]


def _with_problems(schema: dict[str, Any]) -> dict[str, Any]:
    """FastAPI documents validation errors in its own form and every model as ``application/json``; ours are neither."""
    for path in schema["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            responses.pop("422", None)
            for status, response in responses.items():
                if status[0] in "45":
                    response["content"] = {MEDIA_TYPE: response["content"]["application/json"]}
    # The one body that FastAPI does not read itself, because it comes in two forms.
    asked = SearchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["components"]["schemas"] |= asked.pop("$defs") | {"SearchRequest": asked}
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    return schema
