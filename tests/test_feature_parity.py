"""Training and serving see the same rows, bit for bit: a served slate is replayed from the release on disk."""

import numpy as np
import pytest

from pipelines.examples import rank_examples
from recsys.artifacts import load_release, save_release
from recsys.evaluation.requests import EvaluationSet
from recsys.ranking.features import FEATURES
from recsys.recommend import recommend, score_inputs
from tests.builders import CUTOFF, EXACT, LISTS, build_release, build_shop, mixed_requests, recipe


@pytest.mark.parametrize("index", [EXACT, LISTS], ids=["flat", "ivf"])
def test_a_served_slate_is_replayed_with_equal_rows(index, tmp_path):
    config = recipe(index)
    made = build_release(*build_shop(n_items=200), config)
    saved = save_release(made, tmp_path)
    serving = load_release(tmp_path / saved.manifest.version)
    requests = mixed_requests(made.item_ids, 80, seed=4)

    # What the shop's visitors saw, one request at a time, and what they then took: the first item of each slate.
    served = [recommend(serving, [request])[0] for request in requests]
    asked = [(r, [slate.items[0].item_id]) for r, slate in zip(requests, served) if slate.items]
    questions = EvaluationSet([r for r, _ in asked], [taken for _, taken in asked], CUTOFF, CUTOFF)

    # What a night would learn from it, in its own batches, from the release that it holds in memory.
    parts = rank_examples(made, questions, config.examples, config.seed)
    learned = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])

    # What serving computed for the same candidates, one request at a time, from the directory.
    shown = {}
    for request, taken in asked:
        histories, candidates, features = score_inputs(serving, [request])
        if not histories.known[0]:  # whose answer is not the ranker's to give
            continue
        place = np.flatnonzero(candidates.rows == serving.row_of(taken[0]))
        shown[id(request)] = (features, place)
    rows_served = np.concatenate([features for features, place in shown.values() if len(place)])
    positives = np.concatenate([features[place] for features, place in shown.values()])
    assert learned.shape[1] == len(FEATURES)
    assert len(positives) > 40
    assert np.array_equal(learned[labels == 1], positives, equal_nan=True)
    known = {row.tobytes() for row in rows_served}
    assert all(row.tobytes() in known for row in learned)


def test_the_ranker_orders_replayed_rows_as_they_were_served(tmp_path):
    made = build_release(*build_shop())
    saved = save_release(made, tmp_path)
    serving = load_release(tmp_path / saved.manifest.version)
    everything = np.ones(len(made.item_ids), bool)
    for request, slate in zip(
        requests := mixed_requests(made.item_ids, 40, seed=9), recommend(serving, requests, available=everything)
    ):
        histories, candidates, features = score_inputs(made, [request])
        if not histories.known[0]:  # what sells orders those, see test_recommend.py
            continue
        scores = made.ranker.score(features)
        score_of = dict(zip(candidates.rows.tolist(), scores.tolist()))
        for item in slate.items:
            row = made.row_of(item.item_id)
            if row in score_of:
                assert item.score == score_of[row]
