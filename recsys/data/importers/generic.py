"""The generic form: what any shop can export.

A folder with ``items``, ``reviews`` and ``events``, each as ``.csv``, ``.parquet`` or ``.jsonl`` (``.csv.gz``,
``.jsonl.gz`` and ``.json`` too), or one such file. None of the three has to be there. The columns are those of
``recsys.schema``; those named here are required, the others may be missing or empty, and columns of other names are
passed over:

=========  =========================================================================================================
items      ``item_id``
reviews    ``review_id``, ``item_id``, ``timestamp``
events     ``event_id``, ``event_type``, ``timestamp``; ``item_id`` unless a search; ``user_id`` or ``session_id``
=========  =========================================================================================================

Times are ISO 8601 (UTC unless they say otherwise; ``20260131`` too) or seconds, milliseconds or microseconds since
1970, from 1990 on. Prices are in cents. ``images`` is a JSON list or ``a.jpg|b.jpg``: URLs, absolute paths, or paths
below the folder of the file. ``attributes`` is a JSON object or ``colour=red|size=M``. ``event_id`` and ``review_id``
are the shop's own: a row whose id is known already is passed over, an item is replaced whole (``created_at`` stays
where none is given).
"""

from pathlib import Path

from recsys.data.importers.checks import COLUMNS
from recsys.data.importers.files import SUFFIXES, has_suffix, read_batches, stem
from recsys.data.importers.intake import Intake
from recsys.errors import SchemaError


def find_tables(source: Path) -> dict[str, Path]:
    """Which file holds which table, in the order in which they are taken.

    Raises:
        SchemaError: there is none, or one table stands in two files.
    """
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    found: dict[str, Path] = {}
    for table in COLUMNS:
        named = [path for path in files if stem(path) == table and has_suffix(path)]
        if len(named) > 1:
            raise SchemaError(f"{source}: expected {table} in one file, came {[path.name for path in named]}")
        found |= dict.fromkeys((table,), named[0]) if named else {}
    if not found:
        raise SchemaError(
            f"{source}: expected files named {', '.join(COLUMNS)} with one of the endings {', '.join(SUFFIXES)}, "
            f"came {[path.name for path in files][:20]}"
        )
    return found


def import_generic(intake: Intake, source: Path, progress: bool) -> list[str]:
    """Take in the generic form; returns remarks for the summary."""
    remarks = []
    for table, path in find_tables(source).items():
        columns = COLUMNS[table]
        passed_over: set[str] = set()
        take = {"items": intake.take_items, "reviews": intake.take_reviews, "events": intake.take_events}[table]
        for batch in read_batches(path, intake.rejects, progress):
            rows = batch.rows
            missing = [name for name, column in columns.items() if column.required and name not in rows.columns]
            if missing:
                raise SchemaError(f"{path}: expected the columns {missing}, came {rows.columns}")
            passed_over |= set(rows.columns) - set(columns)
            take(batch, rows)
        if passed_over:
            remarks.append(f"{path.name}: columns passed over: {', '.join(sorted(passed_over))}")
    return remarks
