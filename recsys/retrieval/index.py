"""The Faiss index over item embeddings, and the only map between ``item_id`` and row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from recsys.errors import ConfigError, ReleaseError, require_at_least
from recsys.histories import Float32, Int32
from recsys.retrieval.codes import (
    MAPPED,
    CodeIndex,
    learn_codes,
    load_code_index,
    read_where_they_lie,
    save_code_index,
)

FEW_QUERIES = 16  # below the number at which any version of Faiss turns to a matrix product
CODE_BITS = (256, 128, 64)  # of a binary index, as many as fit
FEWEST_QUANTISED = 256  # vectors, as many as a product quantiser's byte has values
SHORTLIST = 1000  # of a binary index, at first; rescoring costs about 0.1 ms for it


@dataclass(frozen=True)
class IndexConfig:
    """How the index is chosen from the size of the catalogue.

    Attributes:
        kind: "auto" is "flat" up to ``exact_up_to``, then "ivf" where the vectors fit ``memory_mib``, then "binary":
            codes in memory, rescored from the release's vectors on disk. "ivf-pq" never reads those; it finds less, and
            below 256 items is "flat".
        exact_up_to: items; up to here an exact scan is fast enough (64-d: about 0.1 ms per 10,000).
        memory_mib: budget of what a search scans; beyond it "auto" takes codes, of as many bits as fit.
        code_bits: of a binary index; 0 takes as many as fit ``memory_mib``. More find more; fewer are scanned faster.
        min_recall: share of the true 100 nearest that the index must find on a sample; it looks further until it does.
        seed: of the sample, of k-means and of the codes.
    """

    kind: Literal["auto", "flat", "ivf", "ivf-pq", "binary"] = "auto"
    exact_up_to: int = 50_000
    memory_mib: int = 1024
    code_bits: Literal[0, 64, 128, 256] = 0
    min_recall: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("index", self, exact_up_to=0, memory_mib=0, seed=0)
        if not 0 <= self.min_recall <= 1:
            raise ConfigError(f"index.min_recall: expected a share in [0, 1], came {self.min_recall}")


@dataclass(frozen=True)
class ItemIndex:
    """Nearest items by inner product. Items without an embedding (all zero) are not in it.

    Attributes:
        item_ids: the item of each row, in the order of the release.
        index: the Faiss index, or the codes that are searched like one; its ids are rows.
        kind: "flat", "ivf", "ivf-pq" or "binary".
        recall: of the true 100 nearest on a sample, measured when it was built; 1 for an exact index.
    """

    item_ids: Sequence[str]
    index: faiss.Index | CodeIndex
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
        if isinstance(self.index, CodeIndex):
            scores, rows = self.index.search(queries, k, allowed)
        else:
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
        """Write the index alone; the ids, and the vectors that codes are rescored from, belong to the release."""
        if isinstance(self.index, CodeIndex):
            save_code_index(self.index, path)
        else:
            faiss.write_index(self.index, str(path))


def load_index(path: Path, item_ids: Sequence[str], kind: str, recall: float, embeddings: Float32) -> ItemIndex:
    """Open what :meth:`ItemIndex.save` wrote, memory-mapped so that workers share it.

    Args:
        path: of the index.
        item_ids: of each row.
        kind, recall: as it was built.
        embeddings: float32 [n, d] that it was built from; a binary one is rescored from them.

    Raises:
        ReleaseError: the file is not a Faiss index.
    """
    if kind == "binary":
        return ItemIndex(item_ids, load_code_index(path, embeddings), kind, recall)
    try:
        index = faiss.read_index(str(path), MAPPED)
        read_where_they_lie(index)
    except RuntimeError as error:
        raise ReleaseError(f"{path}: expected a Faiss index, came something else: {error}") from error
    return ItemIndex(item_ids, index, kind, recall)


def build_index(item_ids: Sequence[str], embeddings: Float32, config: IndexConfig, threads: int) -> ItemIndex:
    """Index the items that have an embedding: exact while that is fast, then inverted lists, then compact codes.

    Args:
        item_ids: of each row.
        embeddings: float32 [n, d], unit norm, or all zero for an item that has none.
        config: limits; see IndexConfig.
        threads: of k-means and of the search that checks the result.
    """
    faiss.omp_set_num_threads(threads)
    rows = np.flatnonzero(np.any(embeddings != 0, axis=1)).astype(np.int64)
    vectors = np.ascontiguousarray(embeddings[rows], np.float32)
    kind = _kind(vectors, config)
    if kind == "flat":
        exact = faiss.IndexIDMap(faiss.IndexFlatIP(embeddings.shape[1]))
        exact.add_with_ids(vectors, rows)
        return ItemIndex(item_ids, exact, kind, 1.0)
    rng = np.random.default_rng(config.seed)
    if kind == "binary":
        codes, recall = _look_further(_build_codes(embeddings, vectors, rows, config, rng), vectors, rows, config, rng)
        return ItemIndex(item_ids, codes, kind, recall)
    index = _build_lists(vectors, rows, config, kind == "ivf-pq", rng)
    return ItemIndex(item_ids, index, kind, _probe_more(index, vectors, rows, config, rng))


def _kind(vectors: Float32, config: IndexConfig) -> str:
    if len(vectors) == 0:
        return "flat"
    if config.kind == "ivf-pq" and len(vectors) < FEWEST_QUANTISED:
        return "flat"
    if config.kind != "auto":
        return config.kind
    if len(vectors) <= config.exact_up_to:
        return "flat"
    return "binary" if vectors.nbytes > config.memory_mib * 2**20 else "ivf"


def _n_lists(n_vectors: int) -> int:
    """A power of two near 2√n, never more than there are vectors: k-means wants one for each list."""
    return int(2 ** min(np.round(np.log2(2 * np.sqrt(n_vectors))), np.floor(np.log2(n_vectors))))


def _build_lists(
    vectors: Float32, rows: NDArray[np.int64], config: IndexConfig, quantised: bool, rng: np.random.Generator
) -> faiss.IndexIVF:
    """Inverted lists of the vectors themselves, or product-quantised to about 1 byte per 2 dimensions."""
    dim, lists = vectors.shape[1], _n_lists(len(rows))
    coarse = faiss.IndexFlatIP(dim)
    index: faiss.IndexIVF
    if quantised:
        codes = max(size for size in range(1, max(dim // 2, 1) + 1) if dim % size == 0)  # bytes; must divide the width
        index = faiss.IndexIVFPQ(coarse, dim, lists, codes, 8, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFFlat(coarse, dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = config.seed
    index.train(_sample(vectors, lists, rng))
    index.add_with_ids(vectors, rows)
    index.nprobe = max(8, lists // 128)
    return index


def _probe_more(
    index: faiss.IndexIVF,
    vectors: Float32,
    rows: NDArray[np.int64],
    config: IndexConfig,
    rng: np.random.Generator,
) -> float:
    """Double nprobe until enough is found; returns the recall."""
    recall = _measured_recall(index, vectors, rows, rng)
    # Quantised codes have a ceiling of their own, so more probes stop helping: give up at a quarter of the lists.
    most = index.nlist // 4 if isinstance(index, faiss.IndexIVFPQ) else index.nlist
    while recall < config.min_recall and index.nprobe < most:
        index.nprobe = min(2 * index.nprobe, most)
        recall = _measured_recall(index, vectors, rows, rng)
    return recall


def _build_codes(
    embeddings: Float32, vectors: Float32, rows: NDArray[np.int64], config: IndexConfig, rng: np.random.Generator
) -> CodeIndex:
    """Learned codes: scanned whole while that is fast, then in inverted lists; rescored from ``embeddings``."""
    most = config.memory_mib * 2**20 / len(rows) - 8  # bytes a code; Faiss keeps 8 more for the row
    bits: int = config.code_bits or next((bits for bits in CODE_BITS if bits / 8 <= most), CODE_BITS[-1])
    codes = learn_codes(vectors, bits, config.seed)
    binary: faiss.IndexBinary
    if len(rows) <= config.exact_up_to:
        binary = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(bits))
    else:
        lists = _n_lists(len(rows))
        # Centres of the vectors, not of the codes: the same lists at a fraction of the time.
        kmeans = faiss.Kmeans(vectors.shape[1], lists, spherical=True, seed=config.seed)
        kmeans.train(_sample(vectors, lists, rng))
        coarse = faiss.IndexBinaryFlat(bits)
        coarse.add(codes.encode(np.asarray(kmeans.centroids, np.float32)))
        binary = faiss.IndexBinaryIVF(coarse, bits, lists)
        binary.is_trained = True
        binary.nprobe = max(8, lists // 64)
    binary.add_with_ids(codes.encode(vectors), rows)
    return CodeIndex(codes, binary, embeddings, SHORTLIST)


def _look_further(
    index: CodeIndex, vectors: Float32, rows: NDArray[np.int64], config: IndexConfig, rng: np.random.Generator
) -> tuple[CodeIndex, float]:
    """Double the shortlist and the lists probed until enough is found; up to a quarter of the items, and all lists."""
    lists = index.binary if isinstance(index.binary, faiss.IndexBinaryIVF) else None
    recall = _measured_recall(index, vectors, rows, rng)
    while recall < config.min_recall and (index.depth < len(rows) // 4 or (lists and lists.nprobe < lists.nlist)):
        index = replace(index, depth=max(index.depth, min(2 * index.depth, len(rows) // 4)))
        if lists:
            lists.nprobe = min(2 * lists.nprobe, lists.nlist)
        recall = _measured_recall(index, vectors, rows, rng)
    return index, recall


def _sample(vectors: Float32, lists: int, rng: np.random.Generator) -> Float32:
    """What k-means learns ``lists`` centres from."""
    chosen: Float32 = vectors[np.sort(rng.choice(len(vectors), min(len(vectors), 40 * lists), replace=False))]
    return chosen


def _measured_recall(
    index: faiss.Index | CodeIndex, vectors: Float32, rows: NDArray[np.int64], rng: np.random.Generator
) -> float:
    """Share of the exact 100 nearest that ``index`` finds, over 200 of its own items."""
    k = min(100, len(rows))
    queries = vectors[rng.choice(len(rows), min(200, len(rows)), replace=False)]
    _, found = index.search(queries, k)
    _, exact = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    hits = [len(np.intersect1d(mine, rows[true])) for mine, true in zip(found, exact)]
    return float(np.mean(hits) / k)
