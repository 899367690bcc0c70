"""What shoppers alone say of items: a modality for shops that describe nothing."""

import math

import numpy as np
from scipy import sparse

from recsys.alignment.modality import Modality
from recsys.errors import SchemaError
from recsys.histories import Int64, Interactions
from recsys.sparse_svd import main_axes


def behaviour_modality(events: Interactions, n_items: int, dim: int, until_days: float = math.inf) -> Modality:
    """Items by who took them: right singular vectors of the shopper × item matrix, each shopper's row of unit length.

    Items of one shopper only, and those that nobody took, have no vector. Nobody has one where fewer than two items
    would: the earliest days of a shop may hold too few events, and later ones must not be known.

    Args:
        events: all that was done.
        n_items: rows of the catalogue.
        dim: at most so many axes.
        until_days: days since 1970 UTC; only what was done before shapes the vectors.

    Raises:
        SchemaError: fewer than two items were ever taken by two shoppers: there is nothing to learn from at all.

    Source: latent semantic indexing, Deerwester et al. 1990.
    """
    if len(known := _known(events, n_items)) < 2:
        raise SchemaError(
            "expected at least 2 items with a picture that can be read, a text (title, description, category, brand or "
            f"attributes) or a review, or else that two shoppers took, came {len(known)} of {n_items} items"
        )
    past = events.select(events.time_days < until_days)
    if len(known := _known(past, n_items)) < 2:
        return Modality(np.zeros((n_items, dim), np.float32), np.zeros(n_items, bool))
    who, what = _pairs(past, n_items)
    unit = np.bincount(who)[who] ** -0.5
    taken = sparse.csr_matrix((unit, (who, what)), shape=(int(who.max()) + 1, n_items))[:, known]
    rank = min(dim, min(taken.shape) - 1)
    sizes, axes = main_axes(taken, rank)
    vectors = np.zeros((n_items, dim), np.float32)
    vectors[known, :rank] = (sizes[:, None] * axes).T
    present = np.zeros(n_items, bool)
    present[known] = True
    return Modality(vectors, present)


def _pairs(events: Interactions, n_items: int) -> tuple[Int64, Int64]:
    """Distinct (shopper, row), as two arrays."""
    return np.divmod(np.unique(events.shoppers.astype(np.int64) * n_items + events.rows), n_items)


def _known(events: Interactions, n_items: int) -> Int64:
    """Rows that two shoppers took, ascending."""
    _, what = _pairs(events, n_items)
    return np.flatnonzero(np.bincount(what, minlength=n_items) >= 2)
