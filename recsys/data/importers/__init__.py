"""import_shop(): a shop's data into the database.

Each form has its file: ``hm.py``, ``amazon.py``, ``generic.py``; their docstrings say what is expected and what becomes
of it. All read in batches and write each batch in one transaction. An import that was stopped is simply run again: what
is there already stays as it is. What cannot be taken goes to a rejects file (see ``rejects.py``), the rest goes in.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from recsys.data.database import upgrade_database
from recsys.data.importers.amazon import import_amazon
from recsys.data.importers.generic import import_generic
from recsys.data.importers.hm import import_hm
from recsys.data.importers.intake import Count, Intake
from recsys.data.importers.rejects import Rejects
from recsys.errors import SchemaError

FORMS: dict[str, Callable[[Intake, Path, bool], list[str]]] = {
    "hm": import_hm,
    "amazon": import_amazon,
    "generic": import_generic,
}


@dataclass(frozen=True)
class ImportSummary:
    """What an import did. A row left out is counted as rejected in its table, or as unreadable where none is known."""

    form: str
    source: Path
    counts: dict[str, Count]
    rejected_rows: int
    rejected_values: int  # left out of rows that went in
    rejects: Path | None  # where they are; None when there are none
    remarks: list[str]
    seconds: float

    @property
    def exit_status(self) -> int:
        """0 when all went in, 1 when there are rejects."""
        return 0 if self.rejects is None else 1

    def describe(self) -> str:
        """A table for a person."""
        lines = [f"{'':10}{'read':>12}{'created':>12}{'changed':>12}{'unchanged':>12}{'rejected':>12}"]
        for table, count in self.counts.items():
            numbers = (count.read, count.created, count.changed, count.unchanged, count.rejected)
            lines.append(f"{table:10}" + "".join(f"{number:12,}" for number in numbers))
        lines += self.remarks
        if self.rejects is not None:
            left_out = f"{self.rejected_rows:,} rows and {self.rejected_values:,} single values were left out"
            lines.append(f"{left_out}; each is explained in {self.rejects}")
        lines.append(f"{self.seconds:.1f} s")
        return "\n".join(lines)


def import_shop(
    engine: Engine,
    source: Path,
    form: str,
    *,
    rejects: Path,
    images_root: Path | None = None,
    threads: int = 2,
    progress: bool = True,
) -> ImportSummary:
    """Import a shop's data; idempotent.

    Args:
        engine: the database; its tables are brought up to date.
        source: a folder, or one file.
        form: one of FORMS.
        rejects: file for what cannot be taken; written anew, and absent when all went in.
        images_root: the folder that relative image paths of the database are relative to; None stores absolute ones.
        threads: decode so many images at a time to see whether they can be read.
        progress: show a bar per file on standard error.

    Raises:
        SchemaError: the source as a whole is not of this form; what was read before that has been written.
    """
    if form not in FORMS:
        raise SchemaError(f"form: expected one of {', '.join(FORMS)}, came {form!r}")
    if not source.exists():
        raise SchemaError(f"{source}: expected a folder or a file, came nothing of this name")
    upgrade_database(engine)
    started = time.monotonic()
    with Rejects(rejects) as rejected:
        intake = Intake(engine, rejected, source if source.is_dir() else source.parent, images_root, threads)
        remarks = FORMS[form](intake, source, progress)
    any_rejects = rejected.rows + rejected.values > 0
    return ImportSummary(
        form=form,
        source=source,
        counts=intake.counts,
        rejected_rows=rejected.rows,
        rejected_values=rejected.values,
        rejects=rejects if any_rejects else None,
        remarks=remarks,
        seconds=time.monotonic() - started,
    )
