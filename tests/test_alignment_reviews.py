"""Pooling reviews: the documented weights, and what must not matter."""

import dataclasses
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reviews import found
from pipelines.config import Paths
from pipelines.encode import add_newest_reviews, align_shop, encode_shop
from pipelines.night_config import NightConfig
from recsys.alignment.reviews import ReviewConfig, pool_reviews, weigh_reviews
from recsys.alignment.train import AlignmentConfig
from recsys.data.synthetic import ShopConfig, make_shop
from recsys.errors import ConfigError, SchemaError
from recsys.histories import read_interactions

PLAIN = ReviewConfig(helpfulness=0, rating=0, half_life_days=0)
X, Y = [1.0, 0.0], [0.0, 1.0]


def pool(vectors, item_rows, n_items=2, rating=None, helpful=None, age=None, config=PLAIN):
    n = len(vectors)
    return pool_reviews(
        np.array(vectors, np.float32).reshape(n, 2),
        np.array(item_rows, np.int32),
        n_items,
        np.full(n, np.nan, np.float32) if rating is None else np.array(rating, np.float32),
        np.zeros(n, np.int32) if helpful is None else np.array(helpful, np.int32),
        np.zeros(n, np.float32) if age is None else np.array(age, np.float32),
        config,
    )


def test_the_formula():
    config = ReviewConfig(helpfulness=2, rating=1, half_life_days=10)
    weights = weigh_reviews(np.float32([5, np.nan, 3]), np.int32([0, 9, -4]), np.float32([0, 20, -7]), config)
    np.testing.assert_allclose(weights, [5 / 3, (1 + np.log(10)) ** 2 / 4, 1])


def test_the_plain_mean_when_all_weights_are_off():
    pooled = pool([X, Y, X], [0, 0, 1])
    np.testing.assert_allclose(pooled.vectors, [[0.5**0.5, 0.5**0.5], X], atol=1e-7)
    assert pooled.present.all()


@pytest.mark.parametrize(
    ("column", "config"),
    [
        ({"helpful": [20, 0]}, ReviewConfig(helpfulness=1, rating=0, half_life_days=0)),
        ({"rating": [5, 1]}, ReviewConfig(helpfulness=0, rating=1, half_life_days=0)),
        ({"age": [0, 900]}, ReviewConfig(helpfulness=0, rating=0, half_life_days=300)),
    ],
)
def test_helpful_pleased_and_recent_reviews_count_more(column, config):
    vector = pool([X, Y], [0, 0], config=config, **column).vectors[0]
    assert vector[0] > 2 * vector[1] > 0


def test_items_without_words_are_absent():
    pooled = pool([X, [0, 0], Y, X, [-1, 0]], [0, 1, -1, 3, 3], n_items=4)
    assert pooled.present.tolist() == [True, False, False, False]  # the two of item 3 cancel out
    assert not pooled.vectors[1:].any()
    nothing = pool([], [], n_items=3)
    assert nothing.vectors.shape == (3, 2)
    assert not nothing.present.any()


def test_ancient_reviews_still_count_against_each_other():
    pooled = pool([X, Y], [0, 0], age=[1e9, 1e9], config=ReviewConfig(half_life_days=1))
    np.testing.assert_allclose(pooled.vectors[0], [0.5**0.5, 0.5**0.5], atol=1e-7)


@given(st.permutations(range(6)))
def test_order_of_reviews_does_not_matter(order):
    vectors = np.array([X, Y, [1, 1], X, [3, 1], [0, 2]])
    rows, votes = np.array([0, 0, 0, 1, 1, 0]), np.arange(6)
    config = ReviewConfig()
    expected = pool(vectors, rows, helpful=votes, config=config).vectors
    again = pool(vectors[order], rows[order], helpful=votes[order], config=config).vectors
    np.testing.assert_allclose(again, expected, atol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(SchemaError, match="below 2, came 2"):
        pool([X], [2])
    with pytest.raises(SchemaError, match="one length"):
        pool([X], [0, 1])
    with pytest.raises(ConfigError, match=r"reviews\.rating: expected at least 0, came -1"):
        ReviewConfig(rating=-1)


@pytest.mark.slow
def test_newest_reviews_join_where_the_aligner_learned_of_reviews(tmp_path):
    """In the graph too, where a review reaches the neighbours of what it speaks of."""
    shop = make_shop(tmp_path, ShopConfig(n_items=60, n_users=80, picture_size=32))
    end, items = shop.config.end, shop.items
    night = NightConfig(
        paths=Paths(images=str(tmp_path / "none"), cache=str(tmp_path / "cache")),
        alignment=AlignmentConfig(dim=16, members=1, hidden=16, epochs=2, fusion="graph"),
        threads=1,
    )
    events = read_interactions(shop.events, shop.taste.item_ids)
    seventh = end - timedelta(days=7)
    told = shop.reviews.filter(pl.col("timestamp") >= seventh)["item_id"].unique().to_list()
    for cutoff, as_of in ((seventh, end), (end, end), (shop.reviews["timestamp"].min(), end)):
        encoded = encode_shop(items, shop.reviews, cutoff, night, progress=False)
        aligned = align_shop(encoded, events, cutoff, night, progress=False)
        newest = add_newest_reviews(aligned, encoded, items, shop.reviews, events, as_of, night)
        if cutoff != seventh:  # nothing is newer, or the aligner cannot place any
            assert newest is aligned
            continue
        changed = (newest.vectors.fused != aligned.vectors.fused).any(axis=1)
        assert {shop.taste.item_ids.index(item_id) for item_id in told} <= set(np.flatnonzero(changed))
        np.testing.assert_array_equal(newest.vectors.text, aligned.vectors.text)
        at_end = encode_shop(items, shop.reviews, end, night, progress=False)
        np.testing.assert_array_equal(newest.modalities["reviews"].vectors, at_end.modalities["reviews"].vectors)
        assert at_end.counts["reviews encoded this night"] == 0  # all of them were, before the newest were asked for
        assert newest.spaces is aligned.spaces


@pytest.mark.slow
def test_what_only_reviewers_say_brings_its_products_up(tmp_path):
    """The demonstration shop's hidden traits, searched in words; pictures are left out to save time."""
    shop = make_shop(tmp_path, ShopConfig(n_items=200, n_users=400, picture_size=32))
    night = NightConfig(threads=1, alignment=AlignmentConfig(members=1, hidden=128, epochs=12))
    night = dataclasses.replace(
        night, paths=dataclasses.replace(night.paths, images=str(tmp_path / "none"), cache=str(tmp_path / "cache"))
    )
    with_reviews, without = found(shop, night, ReviewConfig()), found(shop, night, None)
    assert with_reviews["mean"] > with_reviews["by chance"] + 0.15
    assert with_reviews["mean"] > without["mean"] + 0.1
