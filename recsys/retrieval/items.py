"""Item→item tables: for each item, the few others that follow it, are bought with it, or resemble it.

Counting models are hard to beat on next-item problems (PCTM, RecSys 2026; Ludewig & Jannach 2018,
arXiv:1803.09587), cost seconds to fit, and explain themselves: "because you looked at X".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys.histories import Float32, Int32, Interactions

# (queries float32 [q, d], k) → rows int32 [q, k], -1 where fewer were found, and scores float32 [q, k], best first.
NearestItems = Callable[[Float32, int], tuple[Int32, Float32]]
Floats = npt.NDArray[np.floating[Any]]
PAIRS = 500_000  # of a product, computed at once: bounds memory (to some 40 MB), not the result

MOST_APART = 50  # places in a shopper's log that two events may lie apart and still be a transition


@dataclass(frozen=True, slots=True)
class ItemTable:
    """A sparse item→item matrix, cut to the heaviest neighbours of each item.

    Attributes:
        neighbours: int32 [n, k], rows of items, heaviest first; -1 where an item has fewer than k.
        weights: float32 [n, k], > 0; 0 beside a -1.
    """

    neighbours: Int32
    weights: Float32

    def __len__(self) -> int:
        return len(self.neighbours)


def empty_table(n_items: int) -> ItemTable:
    """A table in which nobody has neighbours."""
    return ItemTable(np.full((n_items, 1), -1, np.int32), np.zeros((n_items, 1), np.float32))


def top_table(matrix: sparse.csr_matrix, k: int) -> ItemTable:
    """Keep the ``k`` largest positive entries of each row; ties go to the lower row number."""
    matrix = matrix.tocsr()
    matrix.sort_indices()
    n_items = matrix.shape[0]
    counts = np.diff(matrix.indptr)
    row_of = np.repeat(np.arange(n_items), counts)
    # Stable, so that equal weights stay in order of their column.
    order = np.lexsort((-matrix.data, row_of))
    place = np.arange(len(order)) - np.repeat(matrix.indptr[:-1], counts)
    keep = (place < k) & (matrix.data[order] > 0)
    width = max(1, int(place[keep].max()) + 1) if keep.any() else 1
    neighbours = np.full((n_items, width), -1, np.int32)
    weights = np.zeros((n_items, width), np.float32)
    rows, places, kept = row_of[keep], place[keep], order[keep]
    neighbours[rows, places] = matrix.indices[kept]
    weights[rows, places] = matrix.data[kept]
    return ItemTable(neighbours, weights)


def top_of_product(
    left: sparse.csr_matrix, right: sparse.csr_matrix, k: int, weigh: Callable[[Int32, Int32, Floats], Floats]
) -> ItemTable:
    """top_table() of ``weigh(left @ right)``, its diagonal left out, some rows at a time: it is never whole in memory.

    Args:
        left, right: [n, m] and [m, n].
        k: as there.
        weigh: rows and columns of entries, and what the product has there → their weights.
    """
    pairs = np.concatenate([[0], np.cumsum(np.diff(right.indptr)[left.indices])])[left.indptr]  # before each row
    parts, start = [], 0
    while start < left.shape[0]:
        stop = max(start + 1, int(pairs.searchsorted(pairs[start] + PAIRS, "right")) - 1)
        some = (left[start:stop] @ right).tocoo()
        other = some.row + start != some.col
        row, column, value = some.row[other], some.col[other], some.data[other]
        value = weigh(row + start, column, value)
        parts.append(top_table(sparse.csr_matrix((value, (row, column)), shape=some.shape), k))
        start = stop
    width = max(part.neighbours.shape[1] for part in parts)
    pads = [((0, 0), (0, width - part.neighbours.shape[1])) for part in parts]
    return ItemTable(
        np.concatenate([np.pad(part.neighbours, pad, constant_values=-1) for part, pad in zip(parts, pads)]),
        np.concatenate([np.pad(part.weights, pad) for part, pad in zip(parts, pads)]),
    )


def _collapse_repeats(events: Interactions) -> Interactions:
    """View, cart and purchase of one item in a row are one step of a walk through the shop."""
    if len(events) == 0:
        return events
    same = (events.rows[1:] == events.rows[:-1]) & (events.shoppers[1:] == events.shoppers[:-1])
    return events.select(np.concatenate([[True], ~same]))


def transition_counts(
    events: Interactions, n_items: int, *, max_distance: int, distance_power: float
) -> sparse.csr_matrix:
    """Directed, distance-decayed co-occurrence: C = Σ_d d^-power · N(d), N(d)[i, j] = how often j came d steps after i.

    Steps are distinct times: what happens at one time has no order, and such a pair counts in both directions, one step
    apart. Of a receipt of hundreds, each thing counts with those that stand within MOST_APART places of it.

    Args:
        events: sorted by shopper and time.
        n_items: rows and columns of the result.
        max_distance: steps, ≥ 1.
        distance_power: 0.5 in PCTM.
    Returns:
        float64 [n_items, n_items], zero diagonal.
    Source: PCTM, "Sequential capacity probes", RecSys 2026.
    """
    walk = _collapse_repeats(events)
    moved = (walk.shoppers[1:] != walk.shoppers[:-1]) | (walk.time_days[1:] != walk.time_days[:-1])
    step = np.concatenate([[0], moved.cumsum()])
    total = sparse.csr_matrix((n_items, n_items), dtype=np.float64)
    for places in range(1, min(max(max_distance, MOST_APART), len(walk) - 1) + 1):
        first, second = walk.rows[:-places], walk.rows[places:]
        steps = step[places:] - step[:-places]
        near = (walk.shoppers[:-places] == walk.shoppers[places:]) & (steps <= max_distance)
        if not near.any():
            break
        pair = near & (first != second)
        together = pair & (steps == 0)
        sources = np.concatenate([first[pair], second[together]])
        targets = np.concatenate([second[pair], first[together]])
        weights = np.maximum(np.concatenate([steps[pair], steps[together]]), 1.0) ** -distance_power
        total = total + sparse.coo_matrix((weights, (sources, targets)), shape=(n_items, n_items)).tocsr()
    return total.tocsr()


def log_transition_weights(counts: sparse.csr_matrix, scale: float) -> sparse.csr_matrix:
    """E = log(1 + C · scale): a pair seen once counts, a pair seen a hundred times does not count a hundredfold.

    The smaller ``scale``, the nearer to plain counts; PCTM writes it n_items/τ, and its published τ make it about 1.
    """
    weights = counts.copy()
    weights.data = np.log1p(weights.data * scale)
    return weights


def copurchase_table(
    shoppers: Int32, rows: Int32, n_items: int, k: int, *, shrinkage: float, heavy_shopper_power: float
) -> ItemTable:
    """Each item's ``k`` best by cosine over the shoppers who took both: s_ij = Σ_u w_u / (√(c_i c_j) + shrinkage).

    A shopper with L items counts w_u = L^-power for each pair: who buys everything says little about any pair.

    Source: Sarwar et al. 2001; shrinkage: Koren 2008.
    """
    if len(rows) == 0:
        return empty_table(n_items)
    n_shoppers = int(shoppers.max()) + 1
    taken = sparse.csr_matrix((np.ones(len(rows)), (shoppers, rows)), shape=(n_shoppers, n_items))
    taken.data[:] = 1.0  # repeats of one shopper and item are one
    length = np.maximum(np.asarray(taken.sum(axis=1)).ravel(), 1.0)
    popularity = np.asarray(taken.sum(axis=0)).ravel()
    weighted = sparse.csr_matrix(sparse.diags(length**-heavy_shopper_power) @ taken)

    def cosine(i: Int32, j: Int32, together: Floats) -> Floats:
        value: Floats = together / (np.sqrt(popularity[i] * popularity[j]) + shrinkage)
        return value

    return top_of_product(taken.T.tocsr(), weighted, k, cosine)


def content_table(embeddings: Float32, search: NearestItems, k: int) -> ItemTable:
    """Each item's ``k`` nearest by embedding, itself excluded; items without an embedding have none.

    Args:
        embeddings: float32 [n, d], unit norm or all zero.
        search: ItemIndex.search_many.
    """
    present = np.flatnonzero(np.any(embeddings != 0, axis=1))
    table = empty_table(len(embeddings))
    if len(present) < 2:
        return table
    neighbours = np.full((len(embeddings), k), -1, np.int32)
    weights = np.zeros((len(embeddings), k), np.float32)
    for start in range(0, len(present), 4096):
        mine = present[start : start + 4096]
        rows, scores = search(embeddings[mine], k + 1)
        # Drop the item itself (wherever it stands among equals) and what does not resemble it at all.
        bad = (rows == mine[:, None]) | (scores <= 0) | (rows < 0)
        order = np.argsort(bad, axis=1, kind="stable")[:, :k]
        rows, scores, bad = (np.take_along_axis(a, order, axis=1) for a in (rows, scores, bad))
        neighbours[mine] = np.where(bad, -1, rows)
        weights[mine] = np.where(bad, 0, scores)
    return ItemTable(neighbours, weights)
