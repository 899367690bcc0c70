"""The files of the sequence benchmark: users' items in their order, titles and attributes of items.

All are UTF-8. Whatever is wrong with one of them is said before anything is measured.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.histories import Int32

ID_COLUMNS = ("p5_id", "item_id", "item")  # of titles; where none is there, it is the first column


@dataclass(frozen=True)
class Files:
    """What the command was given."""

    sequences: Path
    attributes: Path | None
    titles: Path | None
    shuffled: bool = False  # shuffle each user's last three items: see shuffle_ends()


@dataclass(frozen=True)
class Sequences:
    """Train lines and test items, by row of the catalogue.

    Attributes:
        item_ids: items of train, in order of the sha256 of their id: the order in which ties are broken.
        train: each user's rows, oldest first; none where the line had a last item only.
        users: positions in ``train`` of the users that are asked.
        targets: what each of them took next.
        skipped: lines of a user without an item.
    """

    item_ids: list[str]
    train: list[list[int]]
    users: np.ndarray
    targets: Int32
    skipped: int = 0

    @property
    def rows(self) -> Int32:
        """All of train, one line after the other, int32 [m]."""
        return np.array([row for line in self.train for row in line], np.int32)

    @property
    def buyers(self) -> np.ndarray:
        """How often each item stands in train, int64 [n]."""
        return np.bincount(self.rows, minlength=len(self.item_ids))


def read_sequences(files: Files) -> Sequences:
    """Every line's last item is the test, where some line has it in train; the rest is train.

    Words are parted by blanks and tabs, and by nothing else: an id may hold any other character.

    Raises:
        SystemExit: no line has two items for train, or nobody can be asked.
    """
    path = files.sequences
    words = [re.split(r"[ \t]+", line.strip(" \t")) for line in _read(path).split("\n") if line.strip(" \t")]
    lines = [items for _, *items in words if items]
    if max(map(len, lines), default=0) < 3:
        raise SystemExit(
            f"{path}: expected lines of a user and items, some with three items at least (two to learn from and one to "
            f"ask for), came {len(words):,} lines, {len(lines):,} of them with an item, and none with three"
        )
    if files.shuffled:
        lines = shuffle_ends(lines)
    known = {item for line in lines for item in line[:-1]}
    item_ids = sorted(known, key=lambda item: hashlib.sha256(item.encode()).hexdigest())
    row_of = {item: row for row, item in enumerate(item_ids)}
    train = [[row_of[item] for item in line[:-1]] for line in lines]
    asked = [(user, row_of[line[-1]]) for user, line in enumerate(lines) if line[-1] in row_of]
    if not asked:
        raise SystemExit(
            f"{path}: expected users whose last item somebody took before, came none among {len(lines):,}: nobody can "
            "be asked"
        )
    users, targets = np.array(asked).T
    return Sequences(item_ids, train, users, targets.astype(np.int32), len(words) - len(lines))


def shuffle_ends(lines: list[list[str]]) -> list[list[str]]:
    """The last three items of each line in an order drawn with seed 0.

    Reviews of one day keep the catalogue's order in the raw data, and that order is no behaviour: a method that reads
    only this falls here.
    """
    rng = np.random.default_rng(0)
    return [[*line[:-3], *(line[-3:][i] for i in rng.permutation(len(line[-3:])))] for line in lines]


def read_titles(path: Path | None, item_ids: Collection[str]) -> dict[str, str]:
    """Item → title, of a CSV file whose first line names its columns: ``title``, and one of ID_COLUMNS or the first.

    Those of items outside ``item_ids`` are left out; nothing without a file.

    Raises:
        SystemExit: it is no such file, or knows none of the items.
    """
    if path is None:
        return {}
    try:
        rows = list(csv.reader(io.StringIO(_read(path))))
    except csv.Error as error:
        raise SystemExit(f"{path}: expected CSV, came {error}") from error
    header = rows[0] if rows else []
    id_column = next((name for name in ID_COLUMNS if name in header), header[0] if header else "")
    if "title" not in header or id_column == "title":
        raise SystemExit(
            f"{path}: expected the columns title and one of {', '.join(ID_COLUMNS)} (or the item first), came {header}"
        )
    places = header.index(id_column), header.index("title")
    titles = {row[places[0]]: row[places[1]] for row in rows[1:] if len(row) > max(places)}
    return _of_known(path, {item: title for item, title in titles.items() if title}, item_ids)


def read_attributes(path: Path | None, item_ids: Collection[str]) -> dict[str, list[object]]:
    """Item → codes, of a JSON object; those of items outside ``item_ids`` are left out.

    An item's value is a list of codes, one code alone, or an object whose keys and values are codes "key=value"; null
    is no code. A code is a string, a number, true or false.

    Raises:
        SystemExit: it is no such file, or knows none of the items.
    """
    if path is None:
        return {}
    try:
        given = json.loads(_read(path))
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, or lists as deep as that
        raise SystemExit(f"{path}: expected JSON, came {error}") from error
    if not isinstance(given, dict):
        raise SystemExit(f"{path}: expected an object of item → codes, came a {type(given).__name__}")
    known = _of_known(path, given, item_ids)
    return {item: [_clean(code) for code in _codes(path, item, value)] for item, value in known.items()}


def _codes(path: Path, item: str, value: object) -> list[object]:
    if isinstance(value, dict):
        return [f"{key}={code}" for key, each in value.items() for code in _plain(path, item, each)]
    return _plain(path, item, value)


def _plain(path: Path, item: str, value: object) -> list[object]:
    """The codes of a list of them, or of one alone."""
    codes = [code for code in (value if isinstance(value, list) else [value]) if code is not None]
    for code in codes:
        if not isinstance(code, (str, int, float)):  # true and false are int
            raise SystemExit(
                f"{path}: expected codes (strings, numbers, true or false), a list of them or an object of key → "
                f"codes for each item, came {code!r} for {item!r}"
            )
    return codes


def _clean(code: object) -> object:
    """JSON may name half of a character (\\ud800), which no file or database takes: it becomes a question mark."""
    return code.encode(errors="replace").decode() if isinstance(code, str) else code


def _of_known(path: Path, given: dict[str, Any], item_ids: Collection[str]) -> dict[str, Any]:
    known = {item: given[item] for item in item_ids if item in given}
    if not known:
        wanted, came = (f"{len(ids):,}, such as {next(iter(ids), '')!r}" for ids in (item_ids, given))
        raise SystemExit(f"{path}: expected items of the sequences ({wanted}), came none of them among {came}")
    return known


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SystemExit(f"{path}: expected a file of UTF-8 text, came {error}") from error
