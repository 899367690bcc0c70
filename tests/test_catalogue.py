"""Items and reviews as arrays: codes, unknowns, and when an item came."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from pipelines.catalogue import MAX_ATTRIBUTES, SPACE_DIM, arrival_days, bought_together, build_catalogue
from recsys.histories import read_interactions
from recsys.schema import ITEMS, REVIEWS
from tests.builders import events_frame, purchases

NAN = float("nan")
MOMENT = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = MOMENT.timestamp() / 86_400


def items(**columns):
    n = len(columns["item_id"])
    given = {"in_stock": [True] * n, "attributes": [[]] * n, "images": [[]] * n, **columns}
    return pl.DataFrame({name: given.get(name, [None] * n) for name in ITEMS}, schema=ITEMS)


def reviews(*rows):
    return pl.DataFrame(
        [{"review_id": str(n), "item_id": i, "rating": r, "timestamp": t} for n, (i, r, t) in enumerate(rows)],
        schema=REVIEWS,
    )


def test_a_catalogue_by_hand():
    made = build_catalogue(
        items(
            item_id=["a", "b", "c"],
            title=["A hat", None, ""],
            category=["Hats", None, "Coats"],
            brand=[None, None, None],
            family=["f1", "f1", "f2"],
            price_cents=[1999, None, 0],
            in_stock=[True, False, True],
            attributes=[["colour=red", "size=S", "colour=red"], [], ["size=S", "colour=blue"]],
            created_at=[MOMENT, None, MOMENT],
        ),
        reviews(("c", 4.0, MOMENT), ("lost", 5.0, MOMENT), ("a", None, MOMENT)),
    )
    assert (made.item_ids, made.titles, len(made)) == (["a", "b", "c"], ["A hat", "", ""], 3)
    assert made.in_stock.tolist() == [True, False, True]
    assert made.price_cents == pytest.approx(np.array([1999, NAN, 0]), nan_ok=True)
    assert made.created_at_days == pytest.approx(np.array([DAY, NAN, DAY]), nan_ok=True)
    assert (made.category.tolist(), made.brand.tolist()) == ([1, -1, 0], [-1, -1, -1])
    assert made.family.tolist() == [0, 0, 1]
    # By name: category=Coats 0, category=Hats 1, colour=blue 2, colour=red 3, family=f1 4, family=f2 5, size=S 6.
    assert made.attributes[:, :5].tolist() == [[1, 3, 4, 6, -1], [4, -1, -1, -1, -1], [0, 2, 5, 6, -1]]
    assert made.review_rows.tolist() == [2, 0]
    assert made.review_ratings == pytest.approx(np.array([4, NAN]), nan_ok=True)
    assert made.review_days.tolist() == [DAY, DAY]
    dtypes = [getattr(made, name).dtype for name in ("category", "attributes", "review_rows", "price_cents")]
    assert dtypes == [np.int32, np.int32, np.int32, np.float32]


def test_only_so_many_attributes_count():
    many = [f"a{n:02}=x" for n in range(MAX_ATTRIBUTES + 4)]
    made = build_catalogue(items(item_id=["a", "b"], attributes=[many, many[-1:]]), reviews())
    assert made.attributes.shape == (2, MAX_ATTRIBUTES)
    assert made.attributes[0].tolist() == list(range(MAX_ATTRIBUTES))
    assert made.attributes[1, :2].tolist() == [MAX_ATTRIBUTES + 3, -1]


def test_each_level_of_a_category_is_an_attribute():
    made = build_catalogue(items(item_id=["a", "b"], category=["Women > Tops", "Women"], brand=["B", None]), reviews())
    # brand=B 0, category=Tops 1, category=Women 2
    assert made.attributes[:, :4].tolist() == [[0, 1, 2, -1], [2, -1, -1, -1]]


def test_likeness_of_attributes_by_hand():
    made = build_catalogue(
        items(item_id=list("abcd"), attributes=[["x=1", "y=1"], ["x=1", "z=1"], ["y=1"], []]), reviews()
    )
    # Of four items x and y have two holders and z one: weights ln 2 and ln 4.
    x = y = np.log(2)
    z = np.log(4)
    expected = np.array([[x, y, 0], [x, 0, z], [0, y, 0], [0, 0, 0]])
    expected[:3] /= np.linalg.norm(expected[:3], axis=1, keepdims=True)
    assert made.attribute_vectors.toarray() == pytest.approx(expected, abs=1e-6)
    assert made.attribute_space.shape == (4, SPACE_DIM)
    lengths = np.linalg.norm(made.attribute_space.astype(np.float32), axis=1)
    assert lengths[3] == 0
    assert lengths[:2] == pytest.approx(np.ones(2), abs=2e-3)


@pytest.mark.parametrize("attributes", [[["x=1"], ["x=1"], ["x=1"]], [[], [], []], [["x=1"], [], []]])
def test_a_shop_whose_items_cannot_be_told_apart_still_has_a_catalogue(attributes):
    made = build_catalogue(items(item_id=list("abc"), attributes=attributes), reviews())
    assert np.isfinite(made.attribute_space).all()
    assert np.isfinite(made.attribute_vectors.toarray()).all()
    assert len(build_catalogue(items(item_id=["a"], attributes=attributes[:1]), reviews())) == 1


def test_an_item_came_when_the_shop_says_so_or_when_it_was_first_seen():
    made = build_catalogue(items(item_id=list("abcdef")), reviews())
    made = replace(made, created_at_days=np.array([5.0, NAN, NAN, 99.0, NAN, NAN]))
    # The log runs from day 0 to day 50: a first event in its first five days says nothing.
    events = purchases([0, 0, 1, 1, 2], [0, 1, 2, 3, 5], [20, 30, 2, 40, 0])
    assert arrival_days(made, events, 50.0) == pytest.approx(np.array([5, 30, NAN, NAN, NAN, NAN]), nan_ok=True)
    none = arrival_days(made, purchases([], [], []), 50.0)
    assert none == pytest.approx(np.array([5, NAN, NAN, NAN, NAN, NAN]), nan_ok=True)


def test_pairs_are_near_neighbours_of_one_shopper():
    events = purchases([0, 0, 0, 1, 1], [0, 1, 1, 3, 4], [1, 1.5, 1.6, 1, 2])
    assert bought_together(events).tolist() == [[0, 1], [3, 4], [0, 1]]  # never with itself, nor across shoppers
    assert bought_together(purchases([0] * 5, [0, 1, 2, 3, 4], [1] * 5)).tolist() == [
        *([0, 1], [1, 2], [2, 3], [3, 4]),
        *([0, 2], [1, 3], [2, 4]),
        *([0, 3], [1, 4]),
    ]
    assert bought_together(purchases([0], [0], [1])).shape == (0, 2)


def test_views_go_together_where_nothing_is_sold():
    seen = [("u1", "detail-page-view", "a", 1.0), ("u1", "detail-page-view", "b", 1.0)]
    assert bought_together(read_interactions(events_frame(*seen), ["a", "b"])).tolist() == [[0, 1]]
    with_a_sale = [*seen, ("u2", "purchase", "a", 1.0)]
    assert bought_together(read_interactions(events_frame(*with_a_sale), ["a", "b"])).tolist() == []
