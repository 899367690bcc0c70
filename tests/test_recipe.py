"""What the ranker learns from: candidates that retrieval really brought before the question, rightly labelled."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from pipelines.examples import ExamplesConfig, rank_examples
from pipelines.recipe import fit_release, index_shop
from pipelines.workshop import Workshop
from recsys.evaluation.requests import EvaluationSet, build_requests
from recsys.histories import days_since_epoch
from recsys.ranking.features import FEATURES
from recsys.recommend import BATCH, recommend, score_inputs
from recsys.request import Interaction, Request
from tests.builders import CUTOFF, build_shop, mixed_requests, planted_taste, recipe, user_tower

START = CUTOFF - timedelta(days=3)


@pytest.fixture(scope="module")
def parts():
    """Shop, vectors and a release as of START."""
    shop, vectors = build_shop()
    taste = planted_taste(user_tower(), vectors.fused)
    return shop, vectors, fit_release(shop, vectors, taste, START, recipe())


def questions_of(*asked):
    """(request, relevant item ids)…"""
    return EvaluationSet([r for r, _ in asked], [list(relevant) for _, relevant in asked], START, CUTOFF)


def ask(*item_ids):
    past = [Interaction(item_id, "purchase", START - timedelta(days=1)) for item_id in item_ids]
    return Request(requested_at=START, history=past)


def test_labels_are_what_was_taken_and_only_retrieved_positives_teach(parts):
    _, _, release = parts
    known = [ask("red-003", "red-005"), ask("blue-001"), ask("gold-002"), ask("red-001")]
    brought = [score_inputs(release, [request])[1].rows.tolist() for request in known]
    missed = [next(i for row, i in enumerate(release.item_ids) if row not in rows) for rows in brought]
    taken = [[release.item_ids[rows[0]], release.item_ids[rows[3]]] for rows in brought]
    questions = questions_of(
        (known[0], [*taken[0], missed[0]]),  # two of three were retrieved
        (known[1], [missed[1], "never heard of"]),  # none was: teaches nothing
        (known[2], taken[2][:1]),
        (known[3], taken[3]),
    )
    config = replace(recipe(), examples=ExamplesConfig(negatives=1000))
    (examples,) = rank_examples(release, questions, config.examples, config.seed)
    kept = [0, 2, 3]
    assert np.diff(examples.offsets).tolist() == [len(brought[n]) for n in kept]
    expected = [[release.item_ids[row] in questions.relevant[n] for row in brought[n]] for n in kept]
    assert examples.labels.tolist() == [int(label) for labels in expected for label in labels]
    alone = [score_inputs(release, [known[n]])[2] for n in kept]
    assert np.array_equal(examples.features, np.concatenate(alone), equal_nan=True)


def test_what_came_after_a_request_was_nothing_to_choose(parts):
    _, _, release = parts
    request = ask("red-003", "red-005")
    brought = score_inputs(release, [request])[1].rows
    now = days_since_epoch(request.requested_at)
    arrivals = np.full(len(release.item_ids), np.nan)
    arrivals[brought[:4]] = now + 0.5, now + 30, now, now - 1
    questions = questions_of((request, [release.item_ids[row] for row in brought[[0, 2]]]))
    (examples,) = rank_examples(release, questions, ExamplesConfig(negatives=1000), 0, arrivals=arrivals)
    assert len(examples.labels) == len(brought) - 2
    assert np.flatnonzero(examples.labels).tolist() == [0]  # the third of those brought; the first had not come yet


def test_negatives_are_drawn_and_positives_all_stay(parts):
    _, _, release = parts
    requests = mixed_requests(release.item_ids, BATCH + 200, seed=1)
    requests = [request for request in requests if len(score_inputs(release, [request])[0].rows)]
    assert len(requests) > BATCH
    brought = [score_inputs(release, [request])[1].rows for request in requests]
    questions = questions_of(*[(r, [release.item_ids[n] for n in rows[:2]]) for r, rows in zip(requests, brought)])
    config = replace(recipe(), examples=ExamplesConfig(negatives=5))
    examples = rank_examples(release, questions, config.examples, config.seed)
    assert len(examples) == 2  # one for each batch
    assert sum(len(part) for part in examples) == len(requests)
    for part in examples:
        for first, last in zip(part.offsets[:-1], part.offsets[1:]):
            assert part.labels[first:last].sum() == 2
            assert last - first == 7
    again = rank_examples(release, questions, config.examples, config.seed, threads=2)
    for first, second in zip(examples, again, strict=True):
        assert np.array_equal(first.features, second.features, equal_nan=True)
    other = rank_examples(release, questions, config.examples, 1)
    assert not np.array_equal(other[0].features, examples[0].features, equal_nan=True)


def test_a_shopper_without_a_history_teaches_the_ranker_nothing(parts):
    _, _, release = parts
    seller = release.item_ids[release.retrieval.trending_rows[0]]
    examples = rank_examples(
        release, questions_of(*[(ask(seller), [seller])] * 60, *[(ask(), [seller])] * 90), ExamplesConfig(), 0
    )
    lengths = np.concatenate([part.features[part.offsets[:-1], FEATURES.index("history_length")] for part in examples])
    assert lengths.tolist() == [1.0] * 60


def test_nobody_to_learn_from_gives_no_examples_and_no_ranker(parts):
    shop, vectors, release = parts
    assert rank_examples(release, questions_of(), ExamplesConfig(), 0) == []
    early = CUTOFF - timedelta(days=23)  # hardly an event before it
    workshop = Workshop(shop, vectors, recipe())
    made = workshop.ranked_release([(early, early + timedelta(hours=1))], CUTOFF)
    assert made.ranker is None
    assert recommend(made, [replace(ask("red-003"), requested_at=CUTOFF)])[0].fallback == "without_ranker"


def test_a_release_knows_nothing_from_after_its_moment(parts):
    shop, vectors, release = parts
    earlier = shop.interactions.time_days < days_since_epoch(START)
    assert 0 < earlier.sum() < len(earlier)
    past_only = replace(shop, interactions=shop.interactions.select(earlier))
    same = fit_release(past_only, vectors, planted_taste(user_tower(), vectors.fused), START, recipe())
    requests = [replace(r, requested_at=START + timedelta(days=1)) for r in mixed_requests(release.item_ids, 30)]
    for came, expected in zip(score_inputs(same, requests)[1:], score_inputs(release, requests)[1:]):
        if isinstance(came, np.ndarray):
            assert np.array_equal(came, expected, equal_nan=True)
        else:
            assert np.array_equal(came.rows, expected.rows)
    assert release.manifest.data_cutoff == START


def test_what_two_releases_share_is_made_once(parts):
    shop, vectors, _ = parts
    seen = []

    def progress(steps, label, total):
        seen.append(label)
        return steps

    days = [CUTOFF - timedelta(days=n) for n in (4, 3, 2)]
    cuts = [(day, day + timedelta(days=1)) for day in days]
    workshop = Workshop(shop, vectors, recipe(), progress)
    workshop.ranked_release(cuts[:2], days[2])
    second = workshop.ranked_release(cuts[1:], CUTOFF)
    of_cuts = [label for label in seen if "newcomers" not in label]
    assert of_cuts == ["examples of 25 February", "examples of 26 February", "examples of 27 February"]
    fresh = Workshop(shop, vectors, recipe(), progress)
    fresh.taste_at(cuts[0][0])  # tastes go on from the earlier moments that were asked for
    for cut in cuts[1:]:
        for kept, made in zip(workshop.examples(*cut), fresh.examples(*cut), strict=True):
            np.testing.assert_array_equal(kept.features, made.features)
            np.testing.assert_array_equal(kept.labels, made.labels)
    np.testing.assert_array_equal(second.tables.items, fresh.release_at(CUTOFF).tables.items)


def test_the_ranker_learns_nothing_from_newer_vectors_that_its_release_has(parts):
    shop, vectors, _ = parts
    turned = replace(vectors, fused=np.ascontiguousarray(vectors.fused[:, ::-1]))
    days = [CUTOFF - timedelta(days=n) for n in (8, 6, 4)]
    cuts = [(day, day + timedelta(days=2)) for day in days]
    workshop = Workshop(shop, vectors, recipe())
    came = workshop.ranked_release(cuts, CUTOFF, turned)
    expected = Workshop(shop, vectors, recipe()).ranked_release(cuts, CUTOFF)
    assert came.ranker is not None
    assert came.ranker.booster.model_to_string() == expected.ranker.booster.model_to_string()
    for name in ("fused", "attributes"):
        of_release = turned.fused if name == "fused" else expected.tables.spaces[name]
        np.testing.assert_array_equal(came.tables.spaces[name], of_release)
    made = index_shop(shop, turned, recipe())
    for name, table in (("content", made.content), ("attributes", made.attributes)):
        np.testing.assert_array_equal(came.retrieval.tables[name].neighbours, table.neighbours)
    found, _ = came.retrieval.index.search(turned.fused[:5], 3)
    np.testing.assert_array_equal(found, made.index.search(turned.fused[:5], 3)[0])


def test_a_ranked_release_is_far_above_chance_on_later_days():
    shop, vectors = build_shop(n_items=200, n_shoppers=400, seed=3)
    days = [CUTOFF - timedelta(days=n) for n in (5, 4, 3)]
    cuts = [(day, day + timedelta(days=1)) for day in days]
    ranked = Workshop(shop, vectors, recipe()).ranked_release(cuts, CUTOFF - timedelta(days=2))
    questions = build_requests(shop.events, CUTOFF - timedelta(days=2), CUTOFF)
    everything = np.ones(len(ranked.item_ids), bool)

    def hits(release):
        slates = recommend(release, questions.requests, available=everything)
        return np.mean([bool({i.item_id for i in s.items} & set(t)) for s, t in zip(slates, questions.relevant)])

    assert len(questions) > 100
    drawn = np.mean([1 - (1 - len(taken) / len(ranked.item_ids)) ** 12 for taken in questions.relevant])
    assert hits(ranked) > 3 * drawn
