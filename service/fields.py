"""What a field of a body may hold, and the base of every body that comes in."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from recsys.schema import EARLIEST, LONGEST_ID

LARGEST_INT = 2**53 - 1  # what JSON carries exactly


def storable(text: str) -> str:
    """PostgreSQL stores no NUL, and half a surrogate pair has no UTF-8."""
    if "\x00" in text:
        raise ValueError("expected text without the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected Unicode text, this has half a surrogate pair") from None
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=500), AfterValidator(storable)]
Identifier = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ID), AfterValidator(storable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """What a caller sends: strict about types (an id is a string, not a number), and about names."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _utc(value: object) -> datetime:
    """ISO 8601 with an offset, and nothing else: 1738318500 could be seconds, milliseconds or a mistake."""
    if not isinstance(value, str):
        raise ValueError("expected a time as ISO 8601 text with an offset, as 2026-01-31T10:15:00Z")
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None or time < EARLIEST:
            raise ValueError
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a time as ISO 8601 with an offset, as 2026-01-31T10:15:00Z, not before 1970"
        ) from None


Time = Annotated[datetime, BeforeValidator(_utc)]
