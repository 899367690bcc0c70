"""Ask a release the questions of a test window and score every answer, through recommend() like everybody."""

from collections.abc import Sequence

import numpy as np

from pipelines.baselines import item_to_item, popularity
from recsys.artifacts import Release
from recsys.evaluation import metrics
from recsys.evaluation.requests import EvaluationSet
from recsys.histories import Int32
from recsys.recommend import recommend
from recsys.request import Request

PerUser = dict[str, np.ndarray]


def recommended_rows(release: Release, requests: Sequence[Request], k: int) -> Int32:
    """The slates of ``release`` as rows, int32 [q, k], -1 in an empty place.

    Nothing is filtered by stock: what was in stock in the past is not known, and what is today must not leak into it.
    """
    everything = np.ones(len(release.item_ids), bool)
    rows = np.full((len(requests), k), -1, np.int32)
    for number, slate in enumerate(recommend(release, requests, available=everything)):
        mine = [release.rows[item.item_id] for item in slate.items[:k]]
        rows[number, : len(mine)] = mine
    return rows


def score_rows(rows: Int32, questions: EvaluationSet, item_ids: Sequence[str], k: int) -> PerUser:
    """Metric name → its value for each question, float [q]."""
    offsets, relevant = questions.relevance(item_ids)
    return metrics.accuracy_metrics(rows, offsets, relevant, k)


def judge(release: Release, questions: EvaluationSet, k: int) -> tuple[dict[str, PerUser], dict[str, Int32]]:
    """The release beside the two baselines, on the same questions.

    Returns:
        policy → metric → per-user values, and policy → recommended rows; the release is called "release".
    """
    requests = questions.requests
    rows = {
        "popularity": popularity(release, requests, k),
        "item to item": item_to_item(release, requests, k),
        "release": recommended_rows(release, requests, k),
    }
    return {name: score_rows(each, questions, release.item_ids, k) for name, each in rows.items()}, rows
