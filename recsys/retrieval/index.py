"""The Faiss index over item embeddings, and the only map between ``item_id`` and row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from recsys.errors import ReleaseError
from recsys.histories import Float32, Int32

FEW_QUERIES = 16  # below the number at which any version of Faiss turns to a matrix product


@dataclass(frozen=True)
class IndexConfig:
    """How the index is chosen from the size of the catalogue.

    Attributes:
        exact_up_to: items; up to here an exact scan is fast enough (64-d: about 0.1 ms per 10,000).
        memory_mib: budget of the vectors; beyond it they are product-quantised to about 1 byte per 2 dimensions.
        min_recall: share of the true 100 nearest that the index must find on a sample; nprobe is doubled until it does.
        seed: of the sample and of k-means.
    """

    exact_up_to: int = 50_000
    memory_mib: int = 1024
    min_recall: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class ItemIndex:
    """Nearest items by inner product. Items without an embedding (all zero) are not in it.

    Attributes:
        item_ids: the item of each row, in the order of the release.
        index: the Faiss index; its ids are rows.
        kind: "flat", "ivf" or "ivf-pq".
        recall: of the true 100 nearest on a sample, measured when it was built; 1 for an exact index.
    """

    item_ids: Sequence[str]
    index: faiss.Index
    kind: str
    recall: float

    def search(self, queries: Float32, k: int, allowed: npt.NDArray[np.bool_] | None = None) -> tuple[Int32, Float32]:
        """The ``k`` nearest items of each query; a query gets the same bits alone and in any batch.

        Faiss picks its kernel, and with it the rounding, by the number of queries and of threads: so it is asked here
        on one thread and a few at a time. That is also what is quickest for the few queries of one request.

        Args:
            queries: float32 [q, d].
            k: at most this many.
            allowed: bool [n], what may be found; None: everything.
        Returns:
            rows int32 [q, k] (-1 where fewer exist) and inner products float32 [q, k] (0 beside a -1), best first.
        """
        queries = np.ascontiguousarray(queries, np.float32)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            parts = [
                self.search_many(queries[i : i + FEW_QUERIES], k, allowed) for i in range(0, len(queries), FEW_QUERIES)
            ]
        finally:
            faiss.omp_set_num_threads(threads)
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])

    def search_many(
        self, queries: Float32, k: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[Int32, Float32]:
        """The same for thousands of queries, on all threads: quicker, but the last bits depend on the batch."""
        queries = np.ascontiguousarray(queries, np.float32)
        limits = None if allowed is None else self._limits(allowed)
        scores, rows = self.index.search(queries, k, params=limits)
        return rows.astype(np.int32), np.where(rows < 0, 0, scores).astype(np.float32)

    def _limits(self, allowed: npt.NDArray[np.bool_]) -> Any:
        """Faiss's parameters of a search among these rows."""
        index: Any = self.index
        library: Any = faiss
        selector = library.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))  # it keeps what it is given
        if not self.kind.startswith("ivf"):
            return library.SearchParameters(sel=selector)
        # The fewer may be found, the more lists are asked, so that about as many vectors are compared.
        share = max(int(np.count_nonzero(allowed)), 1) / len(allowed)
        probes = min(int(np.ceil(index.nprobe / share)), index.nlist)
        return library.SearchParametersIVF(sel=selector, nprobe=probes)

    def save(self, path: Path) -> None:
        """Write the index alone; the ids belong to the release."""
        faiss.write_index(self.index, str(path))


def load_index(path: Path, item_ids: Sequence[str], kind: str, recall: float) -> ItemIndex:
    """Open what :meth:`ItemIndex.save` wrote, memory-mapped so that workers share it.

    Raises:
        ReleaseError: the file is not a Faiss index.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise ReleaseError(f"{path}: expected a Faiss index, came something else: {error}") from error
    return ItemIndex(item_ids, index, kind, recall)


def build_index(item_ids: Sequence[str], embeddings: Float32, config: IndexConfig, threads: int) -> ItemIndex:
    """Index the items that have an embedding: exact while that is fast, then inverted lists, then quantised ones.

    Args:
        item_ids: of each row.
        embeddings: float32 [n, d], unit norm, or all zero for an item that has none.
        config: limits; see IndexConfig.
        threads: of k-means and of the search that checks the result.
    """
    faiss.omp_set_num_threads(threads)
    dim = embeddings.shape[1]
    rows = np.flatnonzero(np.any(embeddings != 0, axis=1)).astype(np.int64)
    vectors = np.ascontiguousarray(embeddings[rows], np.float32)
    if len(rows) <= config.exact_up_to:
        exact = faiss.IndexIDMap(faiss.IndexFlatIP(dim))
        exact.add_with_ids(vectors, rows)
        return ItemIndex(item_ids, exact, "flat", 1.0)

    lists = int(2 ** np.round(np.log2(2 * np.sqrt(len(rows)))))
    quantised = vectors.nbytes > config.memory_mib * 2**20
    coarse = faiss.IndexFlatIP(dim)
    index: faiss.IndexIVF
    if quantised:
        codes = max(size for size in range(1, max(dim // 2, 1) + 1) if dim % size == 0)  # bytes; must divide the width
        index = faiss.IndexIVFPQ(coarse, dim, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = config.seed
    rng = np.random.default_rng(config.seed)
    sample = rng.choice(len(rows), min(len(rows), 40 * lists), replace=False)
    index.train(vectors[np.sort(sample)])
    index.add_with_ids(vectors, rows)
    index.nprobe = max(8, lists // 128)
    recall = _measured_recall(index, vectors, rows, rng)
    # Quantised codes have a ceiling of their own, so more probes stop helping: give up at a quarter of the lists.
    most = lists // 4 if quantised else lists
    while recall < config.min_recall and index.nprobe < most:
        index.nprobe = min(2 * index.nprobe, most)
        recall = _measured_recall(index, vectors, rows, rng)
    return ItemIndex(item_ids, index, "ivf-pq" if quantised else "ivf", recall)


def _measured_recall(index: faiss.Index, vectors: Float32, rows: np.ndarray, rng: np.random.Generator) -> float:
    """Share of the exact 100 nearest that ``index`` finds, over 200 of its own items."""
    k = min(100, len(rows))
    queries = vectors[rng.choice(len(rows), min(200, len(rows)), replace=False)]
    _, found = index.search(queries, k)
    _, exact = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    hits = [len(np.intersect1d(mine, rows[true])) for mine, true in zip(found, exact)]
    return float(np.mean(hits) / k)
