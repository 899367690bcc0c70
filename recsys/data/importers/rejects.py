"""Where everything goes that an import cannot take: nothing is lost, and each line says why."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CAME_CHARACTERS = 200  # of a value; the whole row stands beside it


class Rejects:
    """Writes a JSON line for each value that was not as expected.

    The keys: ``file``; ``line`` (of a text file; the row number of a Parquet file, from 1); ``column``, as the file
    calls it, null when the whole line is meant; ``expected``; ``came``; ``left_out``, ``row`` when the row did not go
    in, ``value`` when the row went in without this value; ``row``, as it came.

    The file appears with the first reject and describes the last import only.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0  # left out whole
        self.values = 0  # left out of rows that went in
        self._last_row: tuple[Path, int] | None = None
        self._unfinished = path.with_name(path.name + ".unfinished")
        self._file: Any = None

    def add(
        self,
        file: Path,
        line: int,
        column: str | None,
        expected: str,
        came: Any,
        row: Mapping[str, Any] | str | None,
        left_out: str = "row",
    ) -> None:
        """Note one value; several of one row, one after the other, count as one row."""
        if left_out == "value":
            self.values += 1
        elif (file, line) != self._last_row:
            self.rows += 1
            self._last_row = (file, line)
        if self._file is None:
            self._unfinished.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._unfinished.open("w", encoding="utf-8", errors="backslashreplace")
        note = {
            "file": str(file),
            "line": line,
            "column": column,
            "expected": expected,
            "came": came[:CAME_CHARACTERS] if isinstance(came, str) else came,
            "left_out": left_out,
            "row": row,
        }
        self._file.write(json.dumps(_as_json(note), ensure_ascii=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._unfinished.replace(self.path)
        elif kind is None:
            self.path.unlink(missing_ok=True)


def _as_json(value: Any) -> Any:
    """JSON knows neither NaN nor times."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
