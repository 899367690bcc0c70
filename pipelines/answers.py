"""Ask a release the questions of a past window: what would it have shown, of what was on offer?"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from recsys.artifacts import Release
from recsys.evaluation.yardstick import slate_rows
from recsys.histories import Int32
from recsys.ranking.features import ITEM_FEATURES
from recsys.recommend import in_batches, recommend
from recsys.request import Request, Slate

Bool = npt.NDArray[np.bool_]
Arrivals = Mapping[str, float]  # item_id → when the shop first offered it, days since 1970 UTC; NaN or absent: unknown


def read_arrivals(items: pl.DataFrame) -> Arrivals:
    """When the items of an ITEMS frame came, where it says so."""
    known = items.drop_nulls("created_at")
    return dict(zip(known["item_id"], known["created_at"].dt.timestamp("us") / 86_400e6))


def on_offer(release: Release, arrivals: Arrivals) -> Bool:
    """What ``release`` may show in answer to later questions, bool [n]: all but what came after its own data end.

    A release fitted up to an earlier day knows the catalogue of the day on which it was made, and would otherwise show
    what nobody could have bought. What had sold before then was there, whatever its date says.
    """
    came_days = np.array([arrivals.get(item_id, np.nan) for item_id in release.item_ids], np.float64)
    sold = ~np.isnan(release.tables.items[:, ITEM_FEATURES.index("days_since_last_sale")])
    return sold | ~(came_days > release.tables.as_of_days)


def answer_requests(
    release: Release,
    requests: Sequence[Request],
    available: Bool | None = None,
    *,
    label: str | None = None,
    threads: int = 1,
) -> list[Slate]:
    """Slates for all requests in order; with a ``label``, under a progress bar of that name.

    Nothing is filtered by stock: what was in stock in the past is not known, and what is today must not leak into it.
    ``available`` bool [n] comes from on_offer(); None: everything.
    """
    shown = _shown(release, available)

    def answer(batch: slice) -> list[Slate]:
        return recommend(release, requests[batch], available=shown)

    slates: list[Slate] = []
    with tqdm(total=len(requests), desc=label, unit=" requests", disable=label is None) as bar:
        for answered in in_batches(answer, len(requests), threads):
            slates += answered
            bar.update(len(answered))
    return slates


def answer_rows(
    release: Release, requests: Sequence[Request], k: int, available: Bool | None = None, *, threads: int = 1
) -> Int32:
    """The first ``k`` items of each answer as the release's rows, int32 [q, k], -1 in an empty place.

    As slate_rows() of answer_requests(), but a batch's slates are let go before the next: hundreds of thousands of them
    take gigabytes.
    """
    shown = _shown(release, available)

    def answer(batch: slice) -> Int32:
        return slate_rows(recommend(release, requests[batch], available=shown), release.rows, k)

    return np.concatenate([np.empty((0, k), np.int32), *in_batches(answer, len(requests), threads)])


def _shown(release: Release, available: Bool | None) -> Bool:
    return np.ones(len(release.item_ids), bool) if available is None else available
