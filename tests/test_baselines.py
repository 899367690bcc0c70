"""The two policies to beat, by hand, and the judge that asks them all the same questions."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from pipelines.baselines import item_to_item, popularity
from pipelines.judge import judge, recommended_rows
from recsys.evaluation.requests import EvaluationSet
from recsys.recommend import recommend
from recsys.request import Interaction, Request
from recsys.retrieval.items import ItemTable
from tests.builders import CUTOFF, build_release, build_shop, purchases


@pytest.fixture(scope="module")
def release():
    """Item 0 leads to 2 (weight 3) and 5 (weight 1), item 1 to 5 (weight 4); 5, 7 and 0 sell."""
    made = build_release(*build_shop(), ranker=False)
    neighbours, weights = np.full((len(made.item_ids), 2), -1, np.int32), np.zeros((len(made.item_ids), 2), np.float32)
    neighbours[0], weights[0] = [2, 5], [3, 1]
    neighbours[1, 0], weights[1, 0] = 5, 4
    tables = {**made.retrieval.tables, "transitions": ItemTable(neighbours, weights)}
    return replace(made, retrieval=replace(made.retrieval, tables=tables, trending_rows=np.array([5, 7, 0], np.int32)))


def asked(release, *rows):
    past = [
        Interaction(release.item_ids[row], "purchase", CUTOFF - timedelta(days=9 - n)) for n, row in enumerate(rows)
    ]
    return Request(requested_at=CUTOFF, history=past)


def test_popularity_is_the_same_for_everybody(release):
    assert popularity(release, [asked(release, 0), asked(release)], 2).tolist() == [[5, 7]] * 2
    assert popularity(release, [asked(release)], 5).tolist() == [[5, 7, 0, -1, -1]]
    assert popularity(release, [], 5).shape == (0, 5)


def test_item_to_item_follows_the_past_and_then_sells(release):
    requests = [asked(release, 0), asked(release, 1, 0), asked(release, 0, 1), asked(release), asked(release, 9)]
    decay = release.retrieval.config.step_decay["transitions"]
    assert 4 * decay + 1 > 3  # item 1, a step older, makes 5 overtake 2
    assert item_to_item(release, requests, 4).tolist() == [
        [2, 5, 7, 0],
        [5, 2, 7, 0],
        [5, 2, 7, 0],
        [5, 7, 0, -1],
        [5, 7, 0, -1],
    ]
    assert item_to_item(release, requests[:1], 1).tolist() == [[2]]
    assert item_to_item(release, [], 4).shape == (0, 4)


def test_the_judge_asks_recommend(release):
    requests = [replace(asked(release, 0), limit=6), replace(asked(release), limit=2)]
    rows = recommended_rows(release, requests, 4)
    everything = np.ones(len(release.item_ids), bool)
    for mine, slate in zip(rows, recommend(release, requests, available=everything)):
        shown = [release.row_of(item.item_id) for item in slate.items][:4]
        assert mine.tolist() == shown + [-1] * (4 - len(shown))


def test_what_is_sold_out_today_counts_in_a_question_of_the_past(release):
    nothing_left = replace(release, in_stock=np.zeros(len(release.item_ids), bool))
    assert (recommended_rows(nothing_left, [asked(release, 0)], 4) >= 0).all()


def test_the_judge_holds_everybody_to_the_same_questions(release):
    requests = [asked(release, 0), asked(release)]
    relevant = [[release.item_ids[7], "never heard of"], [release.item_ids[5]]]
    questions = EvaluationSet(requests, relevant, CUTOFF, CUTOFF + timedelta(days=1))
    judgement = judge(release, questions, purchases([0, 1], [5, 5], [1, 2]), {}, 3, seed=0)
    assert list(judgement.scores) == list(judgement.rows) == ["popularity", "item to item", "release"]
    assert set(judgement.comparisons) == {"popularity", "item to item"}
    (name,) = [metric for metric in judgement.scores["popularity"] if metric.lower().startswith("recall")]
    assert judgement.scores["popularity"][name].tolist() == [0.5, 1.0]
    assert judgement.means["popularity"][name] == 0.75
    assert all(each.shape == (2, 3) for each in judgement.rows.values())


def test_what_no_slate_is_long_enough_for_is_left_out(release):
    """A catalogue of one or two items has no diversity, and JSON has no NaN."""
    questions = EvaluationSet([asked(release, 0)], [[release.item_ids[7]]], CUTOFF, CUTOFF + timedelta(days=1))
    judgement = judge(release, questions, purchases([0, 1], [5, 5], [1, 2]), {}, 1, seed=0)  # slates of one place
    assert np.isnan(judgement.scores["release"]["diversity"]).all()
    assert "diversity" not in judgement.means["release"]
    assert "diversity" not in judgement.comparisons["popularity"]
    assert all(np.isfinite(value) for means in judgement.means.values() for value in means.values())
