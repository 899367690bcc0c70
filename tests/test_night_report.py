"""What the night's page shows: the slates that were judged, and figures of the whole window."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.answers import on_offer
from pipelines.judge import judge
from pipelines.night_config import EvaluationConfig, NightConfig
from pipelines.night_report import judged_examples, recall_by_candidates
from recsys.artifacts import Release
from recsys.evaluation.requests import EvaluationSet
from recsys.request import Interaction, Request
from recsys.schema import ITEMS
from tests.builders import CUTOFF, build_release, build_shop, purchases

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def release() -> Release:
    return build_release(*build_shop(), ranker=False)


def test_the_pictured_slates_are_those_that_were_judged(release: Release) -> None:
    """All but four items are sold out today, what never sold is yet to come: drawn, this is as when it was judged."""
    today = replace(release, in_stock=np.arange(len(release.item_ids)) < 4)
    arrivals = dict.fromkeys(release.item_ids, CUTOFF.timestamp() / 86_400 + 9)
    offer = on_offer(release, arrivals)
    assert 4 < offer.sum() < len(offer)
    ids = release.item_ids
    histories = [[Interaction(ids[row + n], "purchase", CUTOFF - (3 - n) * DAY) for n in range(3)] for row in range(40)]
    requests = [Request(requested_at=CUTOFF, history=history, limit=30) for history in histories]
    questions = EvaluationSet(requests, [[ids[0]]] * 40, CUTOFF, CUTOFF + DAY)
    judgement = judge(today, questions, purchases([0, 1], [5, 5], [1, 2]), arrivals, 30, seed=0)
    config = NightConfig(evaluation=EvaluationConfig(k=30, examples=40))
    sheets = judged_examples(judgement, pl.DataFrame(schema=ITEMS), config)
    pictured = {tuple(release.rows[item.item_id] for item in sheet.recommended) for sheet in sheets}
    assert pictured == {tuple(rows) for rows in judgement.rows["release"].tolist()}
    assert all(offer[list(rows)].all() for rows in pictured)


def test_recall_is_that_of_the_whole_window_and_not_of_its_first_hours(release: Release) -> None:
    """Whoever comes first takes what nobody could know; the second thousand takes what sells best."""
    best = release.item_ids[release.retrieval.trending_rows[0]]
    requests = [Request(requested_at=CUTOFF + number * timedelta(seconds=1)) for number in range(2_000)]
    relevant = [["never heard of"]] * 1_000 + [[best]] * 1_000
    questions = EvaluationSet(requests, relevant, CUTOFF, CUTOFF + DAY)
    found = [dict(recall_by_candidates(release, questions, seed)["trending"])[5] for seed in (0, 0, 1)]
    assert 0.45 < found[0] < 0.55
    assert found[0] == found[1] != found[2]
