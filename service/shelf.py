"""What the shop says now of each item of a release, by row: may it be shown, and does it pass a filter?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEW_CODES = 8  # up to here one comparison each is quicker than looking every row's code up
UNKNOWN = 0  # the code of a category or a brand that an item does not have

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one item, from the catalogue.

    Attributes:
        listed: not deleted.
        in_stock: said to be.
        category, brand, price_cents: None where unknown.
    """

    listed: bool
    in_stock: bool
    category: str | None = None
    brand: str | None = None
    price_cents: int | None = None


NOT_LISTED = Facts(listed=False, in_stock=False)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which items may be found; every condition must hold.

    Attributes:
        category: a path; items of it and of what is below it.
        brands: one of these; empty for any.
        price_from, price_to: cents, both included; an item of unknown price passes neither.
        in_stock: False shows what is sold out too.
    """

    category: str | None = None
    brands: tuple[str, ...] = ()
    price_from: int | None = None
    price_to: int | None = None
    in_stock: bool = True


class Shelf:
    """Facts by row, changed in place: a request reads them without waiting.

    Attributes:
        available: bool [rows], listed and in stock. Rows that no item has yet are false.
    """

    def __init__(self, rows: int) -> None:
        self.available: Bool = np.zeros(rows, bool)
        self._listed: Bool = np.zeros(rows, bool)
        self._price = np.full(rows, np.nan)
        self._codes = {name: np.full(rows, UNKNOWN, np.int32) for name in ("category", "brand")}
        self._names: dict[str, dict[str, int]] = {"category": {}, "brand": {}}

    def put(self, row: int, facts: Facts) -> None:
        """Take over what is known of a row."""
        self._price[row] = np.nan if facts.price_cents is None else facts.price_cents
        for name, value in (("category", facts.category), ("brand", facts.brand)):
            names = self._names[name]
            key = _path(value) if name == "category" else _folded(value)
            self._codes[name][row] = names.setdefault(key, len(names) + 1) if key else UNKNOWN
        self._listed[row] = facts.listed
        self.available[row] = facts.listed and facts.in_stock

    def allowed(self, wanted: Filter, rows: int) -> Bool:
        """bool [rows], what passes."""
        mask = (self.available if wanted.in_stock else self._listed)[:rows].copy()
        if wanted.category is not None:
            prefix = _path(wanted.category)
            codes = [
                code
                for path, code in list(self._names["category"].items())
                if path == prefix or path.startswith(prefix + " > ")
            ]
            mask &= self._of("category", codes, rows)
        if wanted.brands:
            known = self._names["brand"]
            mask &= self._of("brand", [known[key] for key in map(_folded, wanted.brands) if key in known], rows)
        if wanted.price_from is not None:
            mask &= self._price[:rows] >= wanted.price_from
        if wanted.price_to is not None:
            mask &= self._price[:rows] <= wanted.price_to
        return mask

    def _of(self, name: str, codes: Sequence[int], rows: int) -> Bool:
        of_rows = self._codes[name][:rows]
        if len(codes) <= FEW_CODES:
            mask = np.zeros(rows, bool)
            for code in codes:
                mask |= of_rows == code
            return mask
        chosen = np.zeros(len(self._names[name]) + 2, bool)  # one more, for names that another thread adds meanwhile
        chosen[codes] = True
        chosen[-1] = False
        return chosen.take(of_rows, mode="clip")


def _path(category: str | None) -> str:
    """A category path in one form: ``"Women>Dresses "`` → ``"women > dresses"``."""
    return " > ".join(level for part in (category or "").split(">") if (level := _folded(part)))


def _folded(name: str | None) -> str:
    return " ".join((name or "").split()).casefold()
