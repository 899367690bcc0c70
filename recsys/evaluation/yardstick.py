"""One fixed yardstick for every policy that answers the same requests: same relevance, same popularity, same space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recsys.errors import SchemaError
from recsys.evaluation import metrics
from recsys.evaluation.compare import Comparison, compare_all
from recsys.evaluation.metrics import Offsets, PerUser, Rows, Segments
from recsys.evaluation.requests import EvaluationSet
from recsys.request import Slate

SegmentValues = dict[str, dict[str, PerUser]]  # title → segment → per user, NaN for those who are not in it


@dataclass(frozen=True)
class Yardstick:
    """What policies are held against.

    Attributes:
        item_ids: the catalogue, by row: every item that some policy may show.
        k: places that count.
        offsets, rows: what was relevant; see recsys.evaluation.metrics.
        popularity: purchases of each row before the window, int64 [n].
        embeddings: the one space in which diversity is measured, float32 [n, d], zero where nothing is known.
        history: users by the length of their history.
        age: relevant items by how long they had been on offer.
    """

    item_ids: Sequence[str]
    k: int
    offsets: Offsets
    rows: Rows
    popularity: NDArray[np.int64]
    embeddings: NDArray[np.float32]
    history: Segments
    age: Segments

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids)}

    def slate_rows(self, slates: Sequence[Slate]) -> Rows:
        """Slates as rows of this catalogue, int32 [q, k]; see :func:`slate_rows`."""
        return slate_rows(slates, self._row_of, self.k)

    def per_user(self, recommended: Rows) -> dict[str, PerUser]:
        """Every metric of each user, float32 [q], for rows int32 [q, k]; the metric to decide on is the first."""
        return metrics.accuracy_metrics(recommended, self.offsets, self.rows, self.k) | {
            "novelty (bits)": metrics.novelty(recommended, self.popularity),
            "diversity": metrics.diversity(recommended, self.embeddings),
        }

    def catalogue(self, recommended: Rows) -> dict[str, float]:
        """What concerns the catalogue as a whole."""
        n_items = len(self.item_ids)
        return {"coverage": metrics.coverage(recommended, n_items), "gini": metrics.gini(recommended, n_items)}

    def by_segment(self, recommended: Rows) -> SegmentValues:
        """NDCG by length of the history, and recall by age of the item where ages are known."""
        ndcg = metrics.ndcg_at_k(recommended, self.offsets, self.rows, self.k)
        codes = self.history.codes
        values = {
            f"NDCG@{self.k} by {self.history.name}": {
                label: np.where(codes == code, ndcg, np.nan).astype(np.float32)
                for code, label in enumerate(self.history.labels)
                if (codes == code).any()
            }
        }
        found = metrics.found_at_k(recommended, self.offsets, self.rows, self.k)
        recalls = metrics.recall_by_segment(found, self.offsets, self.age)
        if set(recalls) - {"unknown"}:
            values[f"Recall@{self.k} by {self.age.name}"] = recalls
        return values


def slate_rows(slates: Sequence[Slate], row_of: Mapping[str, int], k: int) -> Rows:
    """The first ``k`` items of each slate as rows, int32 [q, k], -1 where one is shorter."""
    rows = np.full((len(slates), k), -1, np.int32)
    for place, slate in enumerate(slates):
        shown = [row_of[item.item_id] for item in slate.items[:k]]
        rows[place, : len(shown)] = shown
    return rows


def build_yardstick(
    requests: EvaluationSet,
    item_ids: Sequence[str],
    popularity: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    created_at_days: NDArray[np.float64],
    k: int,
) -> Yardstick:
    """Fix what the policies that answer ``requests`` are held against.

    Args:
        requests: questions with known answers.
        item_ids: the catalogue by row, [n]; the union where policies know different items.
        popularity: purchases before the window, int64 [n].
        embeddings: float32 [n, d].
        created_at_days: when each item came, days since 1970 UTC, NaN where unknown, float64 [n].
        k: places of a slate that count.

    Raises:
        SchemaError: there are no requests, or the arrays do not fit the catalogue.
    """
    if not requests.requests:
        raise SchemaError(
            f"requests: expected shoppers who took something from {requests.start} to {requests.end}, came none"
        )
    sizes = {"popularity": len(popularity), "embeddings": len(embeddings), "created_at_days": len(created_at_days)}
    if set(sizes.values()) != {len(item_ids)}:
        raise SchemaError(f"expected {len(item_ids)} rows, one an item, came {sizes}")
    offsets, rows = requests.relevance(item_ids)
    asked_days = np.array([request.requested_at.timestamp() / 86_400 for request in requests.requests])
    came_days = np.append(created_at_days, np.nan)[np.minimum(rows, len(item_ids))]
    age_days = np.repeat(asked_days, np.diff(offsets)) - came_days
    return Yardstick(
        item_ids=item_ids,
        k=k,
        offsets=offsets,
        rows=rows,
        popularity=popularity,
        embeddings=embeddings,
        history=metrics.history_segments(requests.history_lengths),
        age=metrics.age_segments(age_days.astype(np.float32)),
    )


def compare_policies(
    a: Mapping[str, PerUser], b: Mapping[str, PerUser], *, seed: int = 0, resamples: int = 2000
) -> dict[str, Comparison]:
    """:func:`compare_all`, without the metrics (or segments) that no user has under both."""
    shared = [name for name in a if name in b and (~np.isnan(a[name]) & ~np.isnan(b[name])).any()]
    return compare_all(
        {name: a[name] for name in shared}, {name: b[name] for name in shared}, seed=seed, resamples=resamples
    )
