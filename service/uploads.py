"""A question that comes as JSON, or as a form with a picture."""

import json
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from service.problems import FieldError, ProblemError, field_errors, sentence, show
from service.schemas import SearchRequest

PICTURE = "image"  # the form's field that carries it
MOST_FIELDS = 20
LONGEST_FIELD = 20_000  # bytes
_NUMBERS, _SWITCHES, _OBJECTS = ("limit",), ("explain", "return_items"), ("filter",)


async def read_search(request: Request) -> tuple[SearchRequest, bytes | None]:
    """The fields of a search, checked, and the bytes of its picture, unchecked; None without one.

    Raises:
        ProblemError: the body is neither form, or a field is not as expected.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request)
    if kind != "application/json":
        came = show(request.headers["content-type"]) if "content-type" in request.headers else "none"
        expected = "expected the header Content-Type: application/json, or multipart/form-data with a picture"
        raise ProblemError(415, "not-json", f"{expected}, came {came}")
    body = await request.body()
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        error_of_body = FieldError(
            field="body", message="expected JSON", came=show(body[:40].decode("utf-8", "replace"))
        )
        raise ProblemError(400, "not-json", f"the body is not JSON: {error}", (error_of_body,)) from error
    return _checked(fields, None), None


async def _read_form(request: Request) -> tuple[SearchRequest, bytes | None]:
    try:
        form = await request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD)
    except ProblemError:  # too large
        raise
    except HTTPException as error:
        raise ProblemError(400, "not-a-form", f"the body is not a form as expected: {error.detail}") from error
    try:
        return await _fields_and_picture(form)
    finally:
        await form.close()


async def _fields_and_picture(form: FormData) -> tuple[SearchRequest, bytes | None]:
    fields: dict[str, Any] = {}
    picture: bytes | None = None
    for name, value in form.multi_items():
        if name in fields or (name == PICTURE and picture is not None):
            raise _invalid(FieldError(field=name, message="expected this field once", came="more"))
        if name == PICTURE:
            if not isinstance(value, UploadFile):
                raise _invalid(FieldError(field=name, message="expected an uploaded file", came=show(value)))
            picture = await value.read()
        elif isinstance(value, UploadFile):
            raise _invalid(
                FieldError(field=name, message=f"expected text; the picture's field is {PICTURE}", came="a file")
            )
        else:
            fields[name] = _typed(name, value)
    return _checked(fields, picture), picture


def _typed(name: str, value: str) -> Any:
    """A form knows only text: numbers, switches and objects are read as JSON has them; what is none stays text."""
    expected = {**dict.fromkeys(_NUMBERS, int), **dict.fromkeys(_SWITCHES, bool), **dict.fromkeys(_OBJECTS, dict)}
    if name not in expected:
        return value
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return value
    return read if type(read) is expected[name] else value


def _checked(fields: Any, picture: bytes | None) -> SearchRequest:
    try:
        asked = SearchRequest.model_validate(fields)
    except ValidationError as error:
        raise _invalid(*field_errors(error.errors())) from None
    if asked.text is None and picture is None:
        message = f"expected text, or a picture in the form's field {PICTURE}"
        raise _invalid(FieldError(field="text", message=message, came="nothing"))
    return asked


def _invalid(*errors: FieldError) -> ProblemError:
    return ProblemError(422, "validation", sentence(list(errors)), errors)


def check_picture(data: bytes, max_bytes: int) -> None:
    """Refuse, before anything decodes it, what is too large or none of the forms that we take, by content.

    Raises:
        ProblemError: 413 or 422.
    """
    if len(data) > max_bytes:
        detail = f"{PICTURE}: expected at most {max_bytes} bytes, came {len(data)}"
        raise ProblemError(413, "body-too-large", detail)
    known = data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
    if not (known or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")):
        raise unreadable("expected a JPEG, PNG, WebP or GIF", data)


def unreadable(message: str, data: bytes) -> ProblemError:
    """422, to be raised."""
    came = f"{len(data)} bytes starting {data[:12]!r}"
    return ProblemError(
        422, "unreadable-picture", f"{PICTURE}: {message}", (FieldError(field=PICTURE, message=message, came=came),)
    )
