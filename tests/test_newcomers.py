"""Items whose past is hidden, for the ranker to learn the order among those that nobody took yet."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from pipelines.newcomers import draw_newcomers, hide_past, questions_about
from pipelines.workshop import Workshop
from recsys.evaluation.requests import build_requests
from recsys.histories import days_since_epoch
from recsys.ranking.features import FEATURES
from tests.builders import CUTOFF, build_shop, recipe

START = CUTOFF - timedelta(days=3)


@pytest.fixture(scope="module")
def shop_and_vectors():
    return build_shop(n_items=200, n_shoppers=200)


@pytest.fixture(scope="module")
def questions(shop_and_vectors):
    return build_requests(shop_and_vectors[0].events, START, CUTOFF)


def test_draws_are_disjoint_parts_of_the_catalogue(shop_and_vectors, questions):
    catalogue = shop_and_vectors[0].catalogue
    masks = list(draw_newcomers(catalogue, questions, 0.1, 3, seed=0))
    assert [mask.sum() for mask in masks] == [20, 20, 20]
    assert np.sum(masks, axis=0).max() == 1
    again = list(draw_newcomers(catalogue, questions, 0.1, 3, seed=0))
    assert np.array_equal(masks, again)
    assert not np.array_equal(masks, list(draw_newcomers(catalogue, questions, 0.1, 3, seed=1)))
    assert list(draw_newcomers(catalogue, questions, 0.1, 0, seed=0)) == []
    unanswered = replace(questions, relevant=[["never heard of"] for _ in questions.relevant])
    assert list(draw_newcomers(catalogue, unanswered, 0.1, 3, seed=0)) == []


def test_hidden_items_are_answers_and_never_history(questions):
    hidden = set(questions.relevant[0][:1])
    about = questions_about(questions, hidden)
    assert len(about) > 0
    assert all(set(relevant) <= hidden for relevant in about.relevant)
    assert all(event.item_id not in hidden for request in about.requests for event in request.history)
    assert len(about) == sum(bool(hidden & set(relevant)) for relevant in questions.relevant)


def test_a_hidden_item_arrives_at_the_moment_it_is_asked_for(shop_and_vectors):
    catalogue = shop_and_vectors[0].catalogue
    hidden = np.arange(len(catalogue)) < 40
    shown = hide_past(catalogue, hidden, START).created_at_days
    known = ~np.isnan(catalogue.created_at_days)
    assert (shown[hidden & known] == days_since_epoch(START)).all()
    assert np.array_equal(shown[~hidden], catalogue.created_at_days[~hidden], equal_nan=True)
    assert np.isnan(shown[hidden & ~known]).all()


def test_examples_know_nothing_of_what_is_hidden(shop_and_vectors):
    config = recipe()
    config = replace(config, examples=replace(config.examples, hidden_draws=3))
    shop, vectors = shop_and_vectors
    n_items, reviewed_at = len(shop.catalogue), days_since_epoch(START) - 1
    reviewed = replace(  # each of the items once
        shop.catalogue,
        review_rows=np.arange(n_items, dtype=np.int32),
        review_ratings=np.full(n_items, 5, np.float32),
        review_days=np.full(n_items, reviewed_at),
    )
    workshop = Workshop(replace(shop, catalogue=reviewed), vectors, config)
    parts = workshop.examples_of_newcomers(START, CUTOFF)
    assert sum(len(part) for part in parts) >= 10
    features = np.concatenate([part.features for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    for behaviour in ("transitions_score", "copurchase_score", "trending_score", "days_since_last_sale"):
        assert np.isnan(features[:, FEATURES.index(behaviour)]).all(), behaviour
    for count in ("times_in_history", "review_count"):
        assert not features[:, FEATURES.index(count)].any(), count
    # What the words say of them is known, and speaks for the right ones.
    likeness = features[:, FEATURES.index("text_mean")]
    assert np.nanmean(likeness[labels == 1]) > np.nanmean(likeness[labels == 0])


def test_no_draws_no_examples(shop_and_vectors):
    config = recipe()
    none = replace(config, examples=replace(config.examples, hidden_draws=0))
    assert Workshop(*shop_and_vectors, none).examples_of_newcomers(START, CUTOFF) == []
