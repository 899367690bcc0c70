"""Read CSV, JSON lines and Parquet in batches, so that a file of any size fits in memory.

Every row keeps its line. A line that cannot be read at all goes to the rejects; the rest goes on.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

import polars as pl
from tqdm import tqdm

from recsys.data.importers.rejects import Rejects
from recsys.errors import SchemaError

BATCH_ROWS = 50_000

SUFFIXES = (
    ".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz",
)  # fmt: skip
JSON_SUFFIXES = tuple(suffix for suffix in SUFFIXES if "json" in suffix)

END_OF_FILE = "\0"  # a row of its own, unless a quote is still open: then the last cell of the last row ends in it

csv.field_size_limit(2**31 - 1)  # a description may be long


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file, as written: text files give strings, Parquet its own types."""

    path: Path
    lines: list[int]  # where each row starts: a text file's line, a Parquet file's row, from 1
    rows: pl.DataFrame

    def row(self, position: int) -> dict[str, Any]:
        """The row at a position of this batch, as the file has it."""
        return self.rows.row(position, named=True)


@dataclass(frozen=True)
class Records:
    """Consecutive objects of a JSON lines file."""

    path: Path
    lines: list[int]
    records: list[dict[str, Any]]

    def row(self, position: int) -> dict[str, Any]:
        """The object at a position of this batch."""
        return self.records[position]


def has_suffix(path: Path, suffixes: Iterable[str] = SUFFIXES) -> bool:
    """Whether the file's name says that it is of one of these forms."""
    return path.name.lower().endswith(tuple(suffixes))


def stem(path: Path) -> str:
    """The file's name without its form: ``events.csv.gz`` → ``events``."""
    return path.name.partition(".")[0]


def read_batches(path: Path, rejects: Rejects, progress: bool) -> Iterator[Batch]:
    """The rows of a file of any of SUFFIXES.

    Raises:
        SchemaError: the file as a whole is not what its name says.
    """
    if has_suffix(path, (".parquet",)):
        yield from _read_parquet(path, progress)
    elif has_suffix(path, (".csv", ".csv.gz")):
        yield from _read_csv(path, rejects, progress)
    else:
        for batch in read_records(path, rejects, progress):
            names = dict.fromkeys(name for record in batch.records for name in record)
            columns = {name: [as_text(record.get(name)) for record in batch.records] for name in names}
            yield Batch(path, batch.lines, pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String)))


def read_records(path: Path, rejects: Rejects, progress: bool) -> Iterator[Records]:
    """The objects of a JSON lines file."""
    lines: list[int] = []
    records: list[dict[str, Any]] = []
    with _open_text(path, progress, newline="\n") as file:
        for number, text in enumerate(file, start=1):
            record = _parse_record(text)
            if isinstance(record, dict):
                lines.append(number)
                records.append(record)
            elif record is not None:
                rejects.add(path, number, None, record, text.strip(), text.rstrip("\n"))
            if len(records) >= BATCH_ROWS:
                yield Records(path, lines, records)
                lines, records = [], []
    if records:
        yield Records(path, lines, records)


def _parse_record(text: str) -> dict[str, Any] | str | None:
    """The object, what was expected instead of this text, or None for an empty line."""
    if not text or text.isspace():
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return "a JSON object on one line"
    if not isinstance(record, dict):
        return "a JSON object on one line"
    # An escape can bring in what no database stores: NUL, or half of a character.
    decoded = json.dumps(record, ensure_ascii=False) if "\\u" in text else text
    if not _is_storable(decoded) or "\\u0000" in decoded:
        return "Unicode text in UTF-8 without NUL"
    return record


def _is_storable(text: str) -> bool:
    if "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes that were not UTF-8, kept as lone surrogates
        return False
    return True


def as_text(value: Any) -> str | None:
    """A JSON value as a CSV cell would have it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _read_csv(path: Path, rejects: Rejects, progress: bool) -> Iterator[Batch]:
    lines: list[int] = []
    rows: list[list[str]] = []
    with _open_text(path, progress, newline="") as file:  # the csv module finds the ends of lines itself
        unstorable: list[int] = []
        reader = csv.reader(_note_unstorable(file, unstorable))
        try:
            header = next(reader, None)
            if not header or header == [END_OF_FILE]:
                raise SchemaError(f"{path}: expected a line with the names of the columns, came an empty file")
            if len(set(header)) < len(header) or unstorable or header[-1].endswith(END_OF_FILE):
                raise SchemaError(f"{path}: expected different names of columns in UTF-8, came {header}")
            start = reader.line_num + 1
            for row in reader:
                if unstorable:
                    rejects.add(path, start, None, "Unicode text in UTF-8 without NUL", ",".join(row), ",".join(row))
                    unstorable.clear()
                elif row == [END_OF_FILE]:
                    break
                elif row and row[-1].endswith(END_OF_FILE):
                    whole = ",".join(row).removesuffix(END_OF_FILE)
                    rejects.add(path, start, None, 'a " that closes the one opened here', "none", whole)
                elif len(row) == len(header):
                    lines.append(start)
                    rows.append(row)
                elif row:
                    came = f"{len(row)} cells"
                    rejects.add(path, start, None, f"{len(header)} cells, as many as columns", came, ",".join(row))
                start = reader.line_num + 1
                if len(rows) >= BATCH_ROWS:
                    yield Batch(path, lines, _text_frame(header, rows))
                    lines, rows = [], []
        except csv.Error as error:
            raise SchemaError(f"{path}, line {reader.line_num}: expected CSV, came {error}") from error
    if rows:
        yield Batch(path, lines, _text_frame(header, rows))


def _text_frame(header: list[str], rows: list[list[str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(header, pl.String), orient="row")


def _note_unstorable(lines: Iterable[str], numbers: list[int]) -> Iterator[str]:
    """The lines, and END_OF_FILE after them; ``numbers`` gets those of lines that no database can store."""
    for number, line in enumerate(lines, start=1):
        if not _is_storable(line):
            numbers.append(number)
        yield line
    yield END_OF_FILE


def _read_parquet(path: Path, progress: bool) -> Iterator[Batch]:
    try:
        n_rows = pl.scan_parquet(path).select(pl.len()).collect().item()
        first = 1
        with tqdm(total=n_rows, desc=path.name, unit="row", unit_scale=True, disable=not progress) as bar:
            for rows in pl.scan_parquet(path).collect_batches(chunk_size=BATCH_ROWS, maintain_order=True):
                yield Batch(path, list(range(first, first + rows.height)), rows)
                first += rows.height
                bar.update(rows.height)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{path}: expected a Parquet file, came {error}") from error


@contextmanager
def _open_text(path: Path, progress: bool, newline: str) -> Iterator[Iterable[str]]:
    """The lines of a text file, also of a gzip-compressed one; the bar counts the bytes read from disk."""
    with open(path, "rb") as raw:
        total = path.stat().st_size
        with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=not progress) as bar:
            binary: Any = raw
            if path.name.lower().endswith(".gz"):
                binary = gzip.GzipFile(fileobj=raw)
            # What is not UTF-8 stays in the text as lone surrogates, which the caller finds and rejects.
            text = TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape", newline=newline)
            try:
                yield _follow(text, raw, bar)
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise SchemaError(f"{path}: expected a whole gzip file, came {error}") from error
            finally:
                text.detach()


def _follow(text: TextIOWrapper, raw: IO[bytes], bar: Any) -> Iterator[str]:
    for number, line in enumerate(text):
        yield line
        if number % 4096 == 0:
            bar.update(raw.tell() - bar.n)
    bar.update(raw.tell() - bar.n)
