"""The two policies that every release must beat: what sells now, and what follows the shopper's last items."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from recsys.artifacts import Release
from recsys.histories import Float32, Int32, read_histories
from recsys.request import Request
from recsys.retrieval.retrieve import score_table, steps_from_newest


def popularity(release: Release, requests: Sequence[Request], k: int) -> Int32:
    """The ``k`` items that sell best of late, the same for everybody: rows int32 [q, k]."""
    best = np.full(k, -1, np.int32)
    trending = release.retrieval.trending_rows[:k]
    best[: len(trending)] = trending
    return np.tile(best, (len(requests), 1))


def item_to_item(release: Release, requests: Sequence[Request], k: int) -> Int32:
    """What usually follows the shopper's items (the transitions table), then what sells: rows int32 [q, k]."""
    retrieval = release.retrieval
    histories = read_histories(requests, release.rows, retrieval.config.history_limit)
    n_items = len(release.item_ids)
    weights: Float32 = np.float32(retrieval.config.step_decay["transitions"]) ** steps_from_newest(histories)
    keys, scores = score_table(retrieval.tables["transitions"], histories.rows, histories.request_of, weights, n_items)
    bounds = np.searchsorted(keys, np.arange(len(requests) + 1) * n_items)
    out = popularity(release, requests, k)
    popular = out[0].copy() if len(out) else out
    for request, (start, stop) in enumerate(pairwise(bounds.tolist())):
        order = np.argsort(-scores[start:stop], kind="stable")[:k]
        mine = (keys[start:stop][order] % n_items).astype(np.int32)
        rest = popular[~np.isin(popular, mine)]
        out[request] = np.concatenate([mine, rest])[:k]
    return out
