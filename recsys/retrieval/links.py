"""What the item→item tables say of one history: the links from its items, gathered once and read several ways."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.histories import Float32, Int32, Int64
from recsys.retrieval.items import ItemTable


@dataclass(frozen=True, slots=True)
class Links:
    """Every link from h items of a history, by table.

    Attributes:
        rows: int32 [r], ascending, distinct: what any table links to from any of them.
        places: int64 [m], the cell of [t, r + 1] in which each link counts; column 0 takes what is no link.
        weights: of each table, float32 [h, k].
    """

    rows: Int32
    places: Int64
    weights: Sequence[Float32]

    def summed(self, counts: Float32) -> Float32:
        """score(c) = Σ_j counts_j · E[h_j, c], float32 [t, r]: 0 where a table does not link to the row.

        ``counts`` float32 [t, h] is of each item by table.
        """
        values = [(weights * mine[:, None]).ravel() for weights, mine in zip(self.weights, counts)]
        n_cells = len(self.weights) * (len(self.rows) + 1)
        return self._by_row(np.bincount(self.places, weights=np.concatenate(values), minlength=n_cells))

    def strongest(self) -> Float32:
        """max_j E[h_j, c], float32 [t, r]."""
        heaviest = np.zeros(len(self.weights) * (len(self.rows) + 1), np.float32)
        np.maximum.at(heaviest, self.places, np.concatenate([weights.ravel() for weights in self.weights]))
        return self._by_row(heaviest)

    def at(self, rows: Int32, values: Float32) -> Float32:
        """``values`` [t, r] of these ``rows`` [c]: float32 [t, c], 0 where no table links to one."""
        if len(self.rows) == 0:
            return np.zeros((len(values), len(rows)), np.float32)
        place = np.minimum(self.rows.searchsorted(rows), len(self.rows) - 1)
        found: Float32 = values[:, place] * (self.rows[place] == rows)
        return found

    def _by_row(self, cells: np.ndarray) -> Float32:
        of_rows: Float32 = cells.reshape(len(self.weights), len(self.rows) + 1).astype(np.float32)[:, 1:]
        return of_rows


def read_links(tables: Sequence[ItemTable], past: Int32) -> Links:
    """The links of t ``tables`` from ``past`` int32 [h]; an item that stands there twice has its links twice."""
    neighbours = [np.asarray(table.neighbours[past]).ravel() for table in tables]
    # The leading -1 stands for "no neighbour", whether there is one or not.
    rows, places = np.unique(np.concatenate([np.array([-1], np.int32), *neighbours]), return_inverse=True)
    places = places[1:] + np.repeat(np.arange(len(tables)) * len(rows), [len(each) for each in neighbours])
    return Links(rows[1:], places, [np.asarray(table.weights[past]) for table in tables])
