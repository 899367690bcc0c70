"""The two policies that every release is held against: what sells now, and what follows the shopper's last items."""

from collections.abc import Sequence

import numpy as np

from recsys.artifacts import Release
from recsys.histories import Float32, Int32, read_histories
from recsys.request import Request
from recsys.retrieval.links import read_links
from recsys.retrieval.retrieve import steps_from_newest


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
    weights: Float32 = np.float32(retrieval.config.step_decay["transitions"]) ** steps_from_newest(histories)
    transitions = retrieval.tables["transitions"]
    out = popularity(release, requests, k)
    for request, (start, stop) in enumerate(histories.spans()):
        links = read_links([transitions], histories.rows[start:stop])
        (scores,) = links.summed(weights[None, start:stop])
        following = links.rows[np.argsort(-scores, kind="stable")[:k]]
        popular = out[request]
        out[request] = np.concatenate([following, popular[~np.isin(popular, following)]])[:k]
    return out
