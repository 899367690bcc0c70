"""Features smoothed over the item–item graph: what an item's neighbours look like, as modalities of its own."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from recsys.alignment.modality import Modality
from recsys.errors import SchemaError

OF_NEIGHBOURS = "neighbours' "  # prefix of the modalities that are made here
MAX_NEIGHBOURS = 50  # of an item; those met most often


def with_neighbours(
    modalities: Mapping[str, Modality], pairs: NDArray[np.int32], rounds: int = 1
) -> dict[str, Modality]:
    """Add to each modality the mean of its neighbours' vectors, present where some neighbour has one.

    Args:
        modalities: name → :class:`Modality`, all of one length.
        pairs: int32 [p, 2], rows of neighbours, such as items bought together; a pair that comes twice weighs twice.
        rounds: how many steps along the graph the features travel.

    Returns:
        The modalities that were given, then one named ``neighbours' NAME`` for each.

    Raises:
        SchemaError: a row of ``pairs`` is not below the number of items.
    """
    n = len(next(iter(modalities.values())))
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n):
        raise SchemaError(f"with_neighbours: expected pairs of rows below {n}, came {pairs.min()} to {pairs.max()}")
    graph = _graph(pairs, n)
    smoothed = dict(modalities)
    for name, modality in modalities.items():
        vectors = np.where(modality.present[:, None], modality.vectors, np.float32(0))
        present = modality.present
        for _ in range(rounds):
            weight = graph @ present.astype(np.float32)
            summed = graph @ vectors
            present = weight > 0
            vectors = np.where(present[:, None], summed / np.maximum(weight, 1e-12)[:, None], 0).astype(np.float32)
        smoothed[OF_NEIGHBOURS + name] = Modality(vectors, present)
    return smoothed


def _graph(pairs: NDArray[np.int32], n: int) -> csr_matrix:
    """Symmetric counts damped by degree, float32 [n, n]: c_ij / √(degree_i · degree_j), no item its own neighbour."""
    both = np.concatenate([pairs, pairs[:, ::-1]])
    both = both[both[:, 0] != both[:, 1]]
    counts = csr_matrix((np.ones(len(both), np.float32), (both[:, 0], both[:, 1])), shape=(n, n))
    counts.sum_duplicates()
    degree = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1.0)
    counts.data /= np.sqrt(np.repeat(degree, np.diff(counts.indptr)) * degree[counts.indices]).astype(np.float32)
    return _strongest(counts)


def _strongest(graph: csr_matrix) -> csr_matrix:
    """Each row's MAX_NEIGHBOURS largest entries; of equal ones the lower column."""
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    order = np.lexsort((graph.indices, -graph.data, rows))
    place = np.arange(len(order)) - graph.indptr[rows[order]]
    kept = order[place < MAX_NEIGHBOURS]
    return csr_matrix((graph.data[kept], (rows[kept], graph.indices[kept])), shape=graph.shape)
