"""What a row must look like, and which of its values do not: whole columns at a time.

Values come as text (CSV, JSON lines) or in types (Parquet) and leave as the columns of ``recsys.schema``.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from recsys.schema import CLOCK_SKEW, EARLIEST, EVENT_TYPES, LONGEST_ID, TIME

# Of a time that is a number: a smaller one is more likely a date without its marks, as 202601311015, or a mistake.
EARLIEST_NUMBER = datetime(1990, 1, 1, tzinfo=UTC)
MAX_INT32 = 2**31 - 1
MAX_CENTS = 10**12  # ten billion of any currency

Parse = Callable[[pl.Series], pl.Series]


@dataclass(frozen=True)
class Column:
    """How one column is read: ``parse`` gives null for what is not as ``expected``."""

    expected: str
    parse: Parse
    required: bool = False
    default: Any = None  # where nothing came


@dataclass(frozen=True)
class Problem:
    """One value that is not as expected."""

    row: int  # position in the batch
    column: str
    expected: str
    came: Any


@dataclass(frozen=True)
class Checked:
    """``values`` has all rows of the batch; ``problems`` are in the order of rows."""

    values: pl.DataFrame
    problems: list[Problem]

    @property
    def bad_rows(self) -> set[int]:
        """The positions of rows with at least one problem."""
        return {problem.row for problem in self.problems}

    def good(self) -> pl.DataFrame:
        """The rows without a problem, with their position as ``row``."""
        bad = sorted(self.bad_rows)
        return self.values.with_row_index("row").filter(~pl.col("row").is_in(bad))


def check(rows: pl.DataFrame, columns: Mapping[str, Column]) -> Checked:
    """Read each of ``columns``; a column that the rows lack counts as empty in every row."""
    values: dict[str, pl.Series] = {}
    problems: list[Problem] = []
    for name, column in columns.items():
        raw = rows[name] if name in rows.columns else pl.repeat(None, rows.height, dtype=pl.String, eager=True)
        raw = _blank_to_null(raw)
        parsed = column.parse(raw).alias(name)
        bad = raw.is_not_null() & parsed.is_null()
        if column.required:
            bad |= raw.is_null()
        problems += [Problem(row, name, column.expected, raw[row]) for row in bad.arg_true()]
        problems += [Problem(row, name, "text without NUL", raw[row]) for row in _has_nul(parsed).arg_true()]
        if column.default is not None:
            parsed = parsed.fill_null(column.default)
        values[name] = parsed
    frame = pl.DataFrame(values)
    return Checked(frame, sorted(problems, key=lambda problem: problem.row))


def check_items(rows: pl.DataFrame) -> Checked:
    """Rows with columns named as in ITEMS."""
    return check(rows, ITEM_COLUMNS)


def check_reviews(rows: pl.DataFrame) -> Checked:
    """Rows with columns named as in REVIEWS."""
    return check(rows, REVIEW_COLUMNS)


def check_events(rows: pl.DataFrame) -> Checked:
    """Rows with columns named as in EVENTS; some values depend on others: only a search has no item."""
    checked = check(rows, EVENT_COLUMNS)
    values, known = checked.values, checked.bad_rows
    more = [
        ("item_id", "an item_id, since only a search has none", (pl.col("event_type") != "search"), pl.col("item_id")),
        ("user_id", "a user_id or a session_id", pl.lit(True), pl.coalesce("user_id", "session_id")),
        (
            "value",
            "stars from 1 to 5, since it is a rating",
            pl.col("event_type") == "rating",
            pl.when(pl.col("value").is_between(1, 5)).then(pl.col("value")),
        ),
    ]
    problems = list(checked.problems)
    for name, expected, applies, present in more:
        bad = values.select((applies & present.is_null()).fill_null(False).alias(name)).to_series()
        problems += [Problem(row, name, expected, values[name][row]) for row in bad.arg_true() if row not in known]
    return Checked(values, sorted(problems, key=lambda problem: problem.row))


def _blank_to_null(raw: pl.Series) -> pl.Series:
    if raw.dtype in (pl.Categorical, pl.Enum):
        raw = raw.cast(pl.String)
    if raw.dtype == pl.String:
        return raw.set(raw.str.strip_chars() == "", None)
    return raw


def _has_nul(values: pl.Series) -> pl.Series:
    """PostgreSQL's text cannot hold the character NUL."""
    frame = values.alias("value").to_frame()
    if values.dtype == pl.String:
        found = pl.col("value").str.contains("\0", literal=True)
    elif values.dtype == pl.List(pl.String):
        found = pl.col("value").list.eval(pl.element().str.contains("\0", literal=True)).list.any()
    else:
        found = pl.repeat(False, pl.len())
    return frame.select(found.fill_null(False).alias("found")).to_series()


def _text(raw: pl.Series) -> pl.Series:
    if raw.dtype == pl.String:
        return raw
    if raw.dtype.is_numeric() or raw.dtype == pl.Boolean or raw.dtype == pl.Null:
        return raw.cast(pl.String)
    return _nothing(raw, pl.String)


def _identifier(raw: pl.Series) -> pl.Series:
    if raw.dtype.is_float():  # 0.1 + 0.2 names nothing
        return _nothing(raw, pl.String)
    text = _text(raw)
    return _keep(text, text.str.len_chars() <= LONGEST_ID)


def _number(low: float, high: float, dtype: pl.DataType | type[pl.DataType] = pl.Float64) -> Parse:
    def parse(raw: pl.Series) -> pl.Series:
        if raw.dtype == pl.String:
            raw = raw.str.strip_chars()
        if not (raw.dtype == pl.String or raw.dtype.is_numeric() or raw.dtype == pl.Null):
            return _nothing(raw, pl.Float64).cast(dtype)
        numbers = raw.cast(pl.Float64, strict=False)
        # NaN is not between anything.
        return _keep(numbers, numbers.is_between(low, high) & numbers.is_not_nan()).cast(dtype)

    return parse


def _whole(low: int, high: int, dtype: pl.DataType | type[pl.DataType]) -> Parse:
    def parse(raw: pl.Series) -> pl.Series:
        numbers = _number(low, high)(raw)
        return _keep(numbers, numbers == numbers.floor()).cast(dtype)

    return parse


def parse_times(raw: pl.Series) -> pl.Series:
    """UTC times from dates, times, ISO 8601 text, or seconds, milliseconds or microseconds since 1970.

    What names no zone is taken as UTC; eight digits are a date. Null for what is none of these, lies before 1970 (as a
    number before 1990) or more than a day ahead.
    """
    dtype = raw.dtype
    if dtype == pl.String:
        times = _parse_time_text(raw.str.strip_chars())
    elif isinstance(dtype, pl.Datetime):
        aware = raw.dt.convert_time_zone("UTC") if dtype.time_zone else raw.dt.replace_time_zone("UTC")
        times = aware.cast(TIME)
    elif dtype == pl.Date:
        times = raw.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    elif dtype.is_numeric():
        times = _parse_time_text(raw.cast(pl.String))
    else:
        times = _nothing(raw, TIME)
    return _keep(times, times.is_between(EARLIEST, datetime.now(UTC) + CLOCK_SKEW))


def _parse_time_text(raw: pl.Series) -> pl.Series:
    times = _epoch(raw.cast(pl.Float64, strict=False))
    for read in (_read_iso, lambda text: _read_iso(_respell(text))):  # the rarer, the later: each costs time
        left = times.is_null() & raw.is_not_null()
        if left.any():
            times = times.zip_with(~left, read(raw.set(~left, None)))
    return times


def _read_iso(text: pl.Series) -> pl.Series:
    iso = pl.col("text").str.replace(r"^(\d{4}-\d\d-\d\d) ", "${1}T")
    forms = ("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%#z")
    read = (iso.str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False) for form in forms)
    return text.alias("text").to_frame().select(pl.coalesce(read)).to_series()


def _respell(text: pl.Series) -> pl.Series:
    """ISO 8601 without marks (``20260131T101500Z``) or without seconds (``2026-01-31 10:15``) → with them."""
    for pattern, spelling in (
        (r"^(\d{4}-?\d\d-?\d\d) ", "${1}T"),
        (r"^(\d{4})(\d\d)(\d\d)(T.*)?$", "${1}-${2}-${3}${4}"),
        (r"T(\d\d)(\d\d)(\d\d)", "T${1}:${2}:${3}"),
        (r"T(\d\d):?(\d\d)(Z|[+-].*)?$", "T${1}:${2}:00${3}"),
    ):
        text = text.str.replace(pattern, spelling)
    return text


def _epoch(numbers: pl.Series) -> pl.Series:
    """Seconds until the year 5138 have fewer digits than milliseconds since 1973, and so on."""
    number = pl.col("number")
    micros = pl.when(number < 1e11).then(number * 1e6).when(number < 1e14).then(number * 1e3).otherwise(number)
    usable = numbers.is_finite() & numbers.is_between(0, 1e17)
    frame = _keep(numbers, usable).alias("number").to_frame()
    times = micros.round().cast(pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return frame.select(pl.when(times >= EARLIEST_NUMBER).then(times)).to_series()


def _choice(*choices: str) -> Parse:
    def parse(raw: pl.Series) -> pl.Series:
        text = _text(raw)
        return _keep(text, text.is_in(choices))

    return parse


def _boolean(raw: pl.Series) -> pl.Series:
    if raw.dtype == pl.Boolean:
        return raw
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    text = _text(raw).str.to_lowercase()
    return text.replace_strict(words, default=None, return_dtype=pl.Boolean)


def _list(raw: pl.Series) -> pl.Series:
    if isinstance(raw.dtype, pl.List) and raw.dtype.inner in (pl.String, pl.Null):
        return raw.cast(pl.List(pl.String)).list.drop_nulls()
    if raw.dtype == pl.String:
        return _map_lists(raw, _parse_list)
    return _nothing(raw, pl.List(pl.String))


def _parse_list(text: str) -> list[str] | None:
    """``["a", "b"]`` or ``a|b``."""
    if not text.startswith("["):
        return [part.strip() for part in text.split("|") if part.strip()]
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parts if all(isinstance(part, str) and part for part in parts) else None


def _attributes(raw: pl.Series) -> pl.Series:
    if isinstance(raw.dtype, pl.Struct):
        raw = raw.struct.json_encode()
    if isinstance(raw.dtype, pl.List):
        raw = pl.Series(raw.name, [None if row is None else json.dumps(row.to_list()) for row in raw], dtype=pl.String)
    if raw.dtype == pl.String:
        return _map_lists(raw, _parse_attributes)
    return _nothing(raw, pl.List(pl.String))


def _parse_attributes(text: str) -> list[str] | None:
    """``{"size": "M"}``, ``{"size": ["S", "M"]}``, ``["size=M"]`` or ``size=M|colour=red`` → sorted tokens."""
    if not text.startswith("{"):
        tokens = _parse_list(text)
        return None if tokens is None or any(token.find("=") < 1 for token in tokens) else sorted(set(tokens))
    try:
        named = json.loads(text)
    except (ValueError, RecursionError):
        return None
    pairs = [(name, value) for name, values in named.items() for value in _as_list(values) if value is not None]
    if any(not name or isinstance(value, dict | list) for name, value in pairs):
        return None
    return sorted({f"{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in pairs})


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _map_lists(raw: pl.Series, parse: Callable[[str], list[str] | None]) -> pl.Series:
    return pl.Series(
        raw.name, [None if text is None else parse(text.strip()) for text in raw], dtype=pl.List(pl.String)
    )


def _keep(values: pl.Series, where: pl.Series) -> pl.Series:
    return values.set(~where.fill_null(False), None)


def _nothing(raw: pl.Series, dtype: Any) -> pl.Series:
    return pl.repeat(None, len(raw), dtype=dtype, eager=True)


_ID = f"an id: text of 1 to {LONGEST_ID} characters"
_IDENTIFIER = Column(_ID, _identifier)
REQUIRED_ID = Column(_ID, _identifier, required=True)
_TEXT = Column("text", _text)
_TIME = "a time as ISO 8601 or as seconds since 1970, not before 1970 (as a number: 1990) and not in the future"

ITEM_COLUMNS = {
    "item_id": REQUIRED_ID,
    "title": _TEXT,
    "description": _TEXT,
    "category": _TEXT,
    "brand": _TEXT,
    "family": _TEXT,
    "price_cents": Column("a whole number of cents, 0 or more", _whole(0, MAX_CENTS, pl.Int64)),
    "in_stock": Column("true or false", _boolean, default=True),
    "attributes": Column("name=value|name=value, a JSON list of such, or a JSON object", _attributes),
    "images": Column("paths or URLs: a JSON list, or separated by |", _list),
    "created_at": Column(_TIME, parse_times),
}
REVIEW_COLUMNS = {
    "review_id": REQUIRED_ID,
    "item_id": REQUIRED_ID,
    "user_id": _IDENTIFIER,
    "rating": Column("stars from 1 to 5", _number(1, 5, pl.Float32)),
    "title": _TEXT,
    "text": _TEXT,
    "helpful_votes": Column("a whole number, 0 or more", _whole(0, MAX_INT32, pl.Int32), default=0),
    "timestamp": Column(_TIME, parse_times, required=True),
}
EVENT_COLUMNS = {
    "event_id": REQUIRED_ID,
    "event_type": Column("one of " + ", ".join(EVENT_TYPES), _choice(*EVENT_TYPES), required=True),
    "user_id": _IDENTIFIER,
    "session_id": _IDENTIFIER,
    "item_id": _IDENTIFIER,
    "value": Column("a number, 0 or more", _number(0, 1e15)),
    "quantity": Column("a whole number, 1 or more", _whole(1, MAX_INT32, pl.Int32)),
    "recommendation_id": _IDENTIFIER,
    "position": Column("a whole number, 0 or more", _whole(0, MAX_INT32, pl.Int32)),
    "timestamp": Column(_TIME, parse_times, required=True),
}
COLUMNS = {"items": ITEM_COLUMNS, "reviews": REVIEW_COLUMNS, "events": EVENT_COLUMNS}
