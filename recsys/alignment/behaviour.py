"""What shoppers alone say of items: a modality for shops that describe nothing."""

import numpy as np
from scipy import sparse

from recsys.alignment.modality import Modality
from recsys.errors import SchemaError
from recsys.histories import Interactions
from recsys.sparse_svd import main_axes


def behaviour_modality(past: Interactions, n_items: int, dim: int) -> Modality:
    """Items by who took them: right singular vectors of the shopper × item matrix, each shopper's row of unit length.

    Items of one shopper only, and those that nobody took, have no vector.

    Args:
        past: what was done so far.
        n_items: rows of the catalogue.
        dim: at most so many axes.

    Raises:
        SchemaError: fewer than two items were taken by two shoppers: there is nothing to learn from at all.

    Source: latent semantic indexing, Deerwester et al. 1990.
    """
    who, what = np.divmod(np.unique(past.shoppers.astype(np.int64) * n_items + past.rows), n_items)
    known = np.flatnonzero(np.bincount(what, minlength=n_items) >= 2)
    if len(known) < 2:
        raise SchemaError(
            "expected at least 2 items with a picture that can be read, a text (title, description, category, brand or "
            f"attributes) or a review, or else that two shoppers took, came {len(known)} of {n_items} items"
        )
    unit = np.bincount(who)[who] ** -0.5
    taken = sparse.csr_matrix((unit, (who, what)), shape=(int(who.max()) + 1, n_items))[:, known]
    rank = min(dim, min(taken.shape) - 1)
    sizes, axes = main_axes(taken, rank)
    vectors = np.zeros((n_items, dim), np.float32)
    vectors[known, :rank] = (sizes[:, None] * axes).T
    present = np.zeros(n_items, bool)
    present[known] = True
    return Modality(vectors, present)
