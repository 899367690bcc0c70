"""Requests and events become arrays: what is kept, in which order, how old."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import SchemaError
from recsys.histories import days_since_epoch, moment_of, read_histories, read_interactions
from recsys.request import Interaction, Request
from recsys.schema import EVENT_TYPES, EVENTS, HISTORY_EVENT_TYPES
from tests.builders import CUTOFF, events_frame

ROW_OF = {"hat": 0, "coat": 1, "tie": 2}


def request(*history, **fields):
    """A request at CUTOFF with events of (item, type, days ago)."""
    past = [Interaction(item, event_type, CUTOFF - timedelta(days=ago)) for item, event_type, ago in history]
    return Request(requested_at=CUTOFF, history=past, **fields)


def test_known_events_stay_in_order_with_their_age():
    histories = read_histories(
        [
            request(("hat", "purchase", 3), ("tie", "impression", 2), ("lost", "purchase", 2), ("coat", "rating", 0.5)),
            request(),
            request(("tie", "detail-page-view", 1), ("tie", "search", 0), ("tie", "remove-from-cart", 0)),
        ],
        ROW_OF,
        limit=50,
    )
    assert histories.offsets.tolist() == [0, 2, 2, 3]
    assert histories.rows.tolist() == [0, 1, 2]
    assert [EVENT_TYPES[code] for code in histories.event_types] == ["purchase", "rating", "detail-page-view"]
    assert histories.age_days.tolist() == [3.0, 0.5, 1.0]
    assert histories.requested_at_days.tolist() == [days_since_epoch(CUTOFF)] * 3
    assert histories.lengths.tolist() == [2, 0, 1]
    assert histories.request_of.tolist() == [0, 0, 2]
    assert list(histories.spans()) == [(0, 2), (2, 2), (2, 3)]


@pytest.mark.parametrize(
    ("placement", "event_type"),
    [("home", "detail-page-view"), ("product", "detail-page-view"), ("cart", "add-to-cart")],
)
def test_the_pages_items_come_last_as_if_just_seen(placement, event_type):
    asked = request(("hat", "purchase", 3), placement=placement, item_ids=["tie", "lost", "coat"])
    histories = read_histories([asked], ROW_OF, limit=50)
    assert histories.rows.tolist() == [0, 2, 1]
    assert histories.age_days.tolist() == [3.0, 0.0, 0.0]
    assert [EVENT_TYPES[code] for code in histories.event_types[1:]] == [event_type] * 2


def test_the_newest_events_stay_when_there_are_too_many():
    asked = request(*[("hat", "purchase", 9 - n) for n in range(9)], item_ids=["coat"])
    histories = read_histories([request(("tie", "purchase", 1)), asked], ROW_OF, limit=3)
    assert histories.offsets.tolist() == [0, 1, 4]
    assert histories.rows.tolist() == [2, 0, 0, 1]
    assert histories.age_days.tolist() == [1.0, 2.0, 1.0, 0.0]


def test_what_is_older_than_the_newest_is_known_to_have_been_had():
    asked = request(*[(item, "purchase", 9 - n) for n, item in enumerate(("tie", "hat", "hat", "coat"))])
    histories = read_histories([asked, request(("tie", "purchase", 1)), asked], ROW_OF, limit=2)
    assert histories.rows.tolist() == [0, 1, 2, 0, 1]
    assert [histories.had_by(number).tolist() for number in range(3)] == [[2, 0, 0, 1], [2], [2, 0, 0, 1]]


def test_an_event_from_a_clock_that_is_ahead_happens_now():
    assert read_histories([request(("hat", "purchase", -2))], ROW_OF, 50).age_days.tolist() == [0.0]


def test_an_unknown_event_type_or_placement_is_named():
    with pytest.raises(SchemaError, match=r"event_type: expected one of .*'purchase'.*, came 'buy'"):
        read_histories([request(("hat", "buy", 1))], ROW_OF, 50)
    with pytest.raises(SchemaError, match=r"placement: expected one of .*'cart'.*, came 'checkout'"):
        read_histories([request(placement="checkout")], ROW_OF, 50)


def test_moments_are_days_since_1970():
    assert days_since_epoch(CUTOFF) == CUTOFF.timestamp() / 86_400


@given(st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_days_since_1970_are_moments_to_the_microsecond(moment):
    assert moment_of(days_since_epoch(moment)) == moment


def test_interactions_are_sorted_by_shopper_and_time_and_equal_times_keep_their_order():
    events = events_frame(
        ("bob", "purchase", "hat", 1),
        ("ann", "purchase", "tie", 2),
        ("ann", "detail-page-view", "coat", 3),
        ("ann", "purchase", "hat", 2),
        ("ann", "purchase", "coat", 2),
        ("ann", "purchase", "lost", 2.5),
    )
    known = read_interactions(events, list(ROW_OF))
    assert known.shoppers.tolist() == [0, 0, 0, 0, 1]
    assert known.rows.tolist() == [1, 2, 0, 1, 0]
    assert known.time_days == pytest.approx([days_since_epoch(CUTOFF) - ago for ago in (3, 2, 2, 2, 1)], abs=1e-9)
    assert known.of_type("detail-page-view").rows.tolist() == [1]
    assert known.quantities.tolist() == [1.0] * 5


def test_what_says_nothing_of_taste_is_left_out():
    events = events_frame(*[("ann", event_type, "hat", n) for n, event_type in enumerate(EVENT_TYPES)])
    kept = {EVENT_TYPES[code] for code in read_interactions(events, list(ROW_OF)).event_types}
    assert kept == set(HISTORY_EVENT_TYPES)
    one_by_one = [request((f"{'hat'}", event_type, 1)) for event_type in EVENT_TYPES]
    lengths = read_histories(one_by_one, ROW_OF, 50).lengths
    assert {name for name, length in zip(EVENT_TYPES, lengths) if length} == set(HISTORY_EVENT_TYPES)


def test_a_guest_is_their_session_and_an_id_shared_with_a_user_is_someone_else():
    events = events_frame(
        ("x", "purchase", "hat", 3),
        (None, "purchase", "coat", 2),
        (None, "purchase", "tie", 1),
        (None, "purchase", "hat", 1),
    ).with_columns(session_id=pl.Series([None, "x", "x", None], dtype=pl.String))
    known = read_interactions(events, list(ROW_OF))
    by_shopper = [known.rows[known.shoppers == code].tolist() for code in range(known.shoppers.max() + 1)]
    assert sorted(by_shopper) == [[0], [0], [1, 2]]


def test_quantities_are_pieces():
    events = events_frame(("ann", "purchase", "hat", 2), ("ann", "purchase", "hat", 1))
    events = events.with_columns(quantity=pl.Series([3, None], dtype=EVENTS["quantity"]))
    assert read_interactions(events, list(ROW_OF)).quantities.tolist() == [3.0, 1.0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from(list(ROW_OF))), max_size=30))
def test_sorting_interactions_is_stable_for_any_log(rows):
    events = events_frame(*[(shopper, "purchase", item, -day) for shopper, day, item in rows])
    known = read_interactions(events, list(ROW_OF))
    expected = sorted(rows, key=lambda row: (row[0], row[1]))
    assert known.rows.tolist() == [ROW_OF[item] for _, _, item in expected]
    assert bool(np.all(np.diff(known.shoppers) >= 0))
