"""The request, whole: history → candidates from every source → features → ranker → rules → slate.

This is the only request path: the service, the offline A/B and the night's own evaluation call :func:`recommend`, and
the ranker is trained on what the same :func:`find_candidates` brings, with the same features. What is measured is what
is served. It needs no torch: everything learned by torch reaches it as arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recsys.artifacts import Release
from recsys.histories import Float32, Histories, Int32, Int64, read_histories
from recsys.ranking import rules
from recsys.ranking.features import compute_features, refuse_leakage
from recsys.reasons import explain, why_filled
from recsys.request import Reason, Request, Slate, SlateItem
from recsys.retrieval.retrieve import N_PERSONAL, WITHOUT_PAST, Candidates, fuse, retrieve

# Requests computed together: enough to share numpy's overhead, few enough to stay in cache.
BATCH = 256
T = TypeVar("T")


def n_batches(n_requests: int) -> int:
    """How many of them so many requests are."""
    return -(-n_requests // BATCH)


def in_batches(work: Callable[[slice], T], n_requests: int, threads: int = 1) -> Iterator[T]:
    """``work(batch)`` for each BATCH of the requests, in order; on ``threads`` threads where there are several.

    numpy, Faiss and LightGBM let other threads run while they compute.
    """
    batches = [slice(start, start + BATCH) for start in range(0, n_requests, BATCH)]
    if threads <= 1 or len(batches) < 2:
        yield from map(work, batches)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, batches)


def recommend(
    release: Release, requests: Sequence[Request], *, available: npt.NDArray[np.bool_] | None = None
) -> list[Slate]:
    """Answer each request from ``release``; alone or in a batch, the answer is the same.

    Args:
        release: from load_release() or a night in progress.
        requests: any number; see Request.
        available: bool [n_items] by row; what may be shown now. None: what was in stock when the release was made.
    Returns:
        One slate for each request, in order. Never an error for an unknown shopper or item: ``fallback`` names the rung
        of the ladder that answered.
    """
    mask = release.in_stock if available is None else available
    batches = in_batches(lambda batch: _recommend_batch(release, requests[batch], mask), len(requests))
    return [slate for slates in batches for slate in slates]


def find_candidates(
    release: Release, requests: Sequence[Request], available: npt.NDArray[np.bool_] | None = None
) -> tuple[Histories, Candidates]:
    """History and candidates of a batch.

    ``available`` bool [n_items] only adds candidates, where few items may be shown: see retrieve().

    Raises:
        LeakageError: a request is from before the end of what the release has seen.
    """
    histories = read_histories(requests, release.rows, release.retrieval.config.history_limit)
    refuse_leakage(histories, release.tables.as_of_days)
    return histories, retrieve(release.retrieval, histories, available)


def score_inputs(
    release: Release, requests: Sequence[Request], available: npt.NDArray[np.bool_] | None = None
) -> tuple[Histories, Candidates, Float32]:
    """The same with the features of every candidate: the first half of recommend(), for tests and measurements."""
    histories, candidates = find_candidates(release, requests, available)
    return histories, candidates, compute_features(candidates, histories, release.tables)


def _recommend_batch(release: Release, requests: Sequence[Request], mask: npt.NDArray[np.bool_]) -> list[Slate]:
    histories, candidates = find_candidates(release, requests, mask)
    features = None
    if release.ranker is not None:  # nobody else would read them, and it orders only where something is known
        features = compute_features(candidates, histories, release.tables, only=histories.known)
    scores = _scores(release, histories, candidates, features)
    return [
        _slate(release, request, place, histories, candidates, features, scores, mask)
        for place, request in enumerate(requests)
    ]


def _scores(release: Release, histories: Histories, candidates: Candidates, features: Float32 | None) -> Float32:
    """What orders the candidates, float32 [c]: the ranker, and retrieval where it is absent or no past is known.

    Without a past every feature is the item's own. A ranker could only learn from them which best sellers of one day
    went on selling: accidents. What sells now is the better order (see docs/quality.md), and the newest come after it,
    whatever the two sources count for those who have a past.
    """
    known = histories.known[candidates.request_of]
    scores: Float32 = np.where(known, candidates.fused, fuse(candidates.ranks.T, WITHOUT_PAST))
    if release.ranker is not None and features is not None and known.any():
        scores[known] = release.ranker.score(features[known])
    return scores


def _slate(
    release: Release,
    request: Request,
    place: int,
    histories: Histories,
    candidates: Candidates,
    features: Float32 | None,
    scores: Float32,
    available: npt.NDArray[np.bool_],
) -> Slate:
    """Rules and reasons for one request of a batch."""
    start, stop = int(candidates.offsets[place]), int(candidates.offsets[place + 1])
    rows = candidates.rows[start:stop]
    forbidden = _forbidden_rows(release, request)
    chosen: Int64 = rules.select(rows, scores[start:stop], forbidden, available, request.limit)
    if release.ranker is None or not histories.known[place]:
        chosen = chosen[scores[start:stop][chosen] > 0]  # what no source speaks for fills the slate, the newest first
    positions = (start + chosen).tolist()
    picked = rows[chosen].tolist()
    ranked = scores[start:stop][chosen]
    ordered = ranked[np.isfinite(ranked)].tolist()  # the others are the last of the chosen
    extra: list[int] = []
    if len(picked) < request.limit:
        extra = _filling(release, picked, histories.had_by(place), forbidden, available, request.limit)
    reasons: list[tuple[Reason, ...]] = [()] * (len(picked) + len(extra))
    if request.explain:
        reasons = explain(release, candidates, positions, histories, place, features)
        reasons += [(why_filled(release, row),) for row in extra]
    # What only fills the slate, or has no score that is a number, stands below everything that was ranked.
    floor = min(ordered, default=0.0)
    ordered += [floor - 1.0 - number for number in range(len(picked) + len(extra) - len(ordered))]
    ids = release.item_ids
    return Slate(
        items=tuple(
            SlateItem(ids[row], number + 1, score, why)
            for number, (row, score, why) in enumerate(zip(picked + extra, ordered, reasons))
        ),
        fallback=_fallback(release, picked + extra, candidates.scores[positions]),
        release=release.manifest.version,
        n_candidates=stop - start,
    )


def _filling(
    release: Release, picked: list[int], had: Int32, forbidden: set[int], available: npt.NDArray[np.bool_], limit: int
) -> list[int]:
    """What fills a slate that is too short: what sells, then what is new, then anything.

    Where nothing is taken twice, what the shopper ``had`` comes last: a full page is worth more than a rule of taste,
    and what must never be shown is in ``forbidden``.
    """
    retrieval = release.retrieval
    anything = np.arange(len(release.item_ids), dtype=np.int32)
    preferences = (retrieval.trending_rows, retrieval.newest, anything)
    if retrieval.config.repeats:
        return rules.fill(picked, preferences, forbidden, available, limit)
    extra = rules.fill(picked, preferences, forbidden | set(had.tolist()), available, limit)
    return extra + rules.fill(picked + extra, preferences, forbidden, available, limit)


def _forbidden_rows(release: Release, request: Request) -> set[int]:
    ids = set(request.exclude_item_ids) | set(request.item_ids)
    if request.exclude_purchased:
        ids |= {event.item_id for event in request.history if event.event_type == "purchase"}
    return {release.rows[item_id] for item_id in ids if item_id in release.rows}


def _fallback(release: Release, shown: list[int], scores: Float32) -> str:
    """The rung that a slate came from: ``shown`` are its rows, ``scores`` what every source says of the ranked ones."""
    if np.isnan(scores[:, :N_PERSONAL]).all():
        return "trending" if release.retrieval.trending[shown].any() else "newest"
    if release.retrieval.taste_index is None:
        return "item_to_item"
    return "full" if release.ranker is not None else "without_ranker"
