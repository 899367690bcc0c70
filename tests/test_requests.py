"""Requests from events: who asks, when, with which history, and what would have been right."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from recsys.data.load import load_user_history
from recsys.data.store import insert_events
from recsys.errors import SchemaError
from recsys.evaluation.metrics import recall_at_k
from recsys.evaluation.requests import build_requests
from recsys.schema import EVENTS

START = datetime(2026, 3, 10, tzinfo=UTC)
END = START + timedelta(days=1)


def events_of(*rows):
    """Rows of (user, session, type, item, hours after START)."""
    columns = {name: [None] * len(rows) for name in EVENTS}
    columns["event_id"] = [str(n) for n in range(len(rows))]
    for name, position in (("user_id", 0), ("session_id", 1), ("event_type", 2), ("item_id", 3)):
        columns[name] = [row[position] for row in rows]
    columns["timestamp"] = [START + timedelta(hours=row[4]) for row in rows]
    return pl.DataFrame(columns, schema=EVENTS)


def test_one_request_where_the_shopper_first_came_with_all_that_was_before():
    events = events_of(
        ("ann", "s1", "purchase", "hat", -30),
        ("ann", "s2", "impression", "tie", -20),
        ("ann", "s2", "search", None, -19),
        ("ann", "s2", "remove-from-cart", "tie", -18.5),
        ("ann", "s2", "detail-page-view", "coat", -18),
        ("ann", "s3", "detail-page-view", "scarf", 2),
        ("ann", "s3", "purchase", "scarf", 3),
        ("ann", "s4", "purchase", "gloves", 9),
        ("ann", "s4", "purchase", "scarf", 9),
        ("ann", "s5", "purchase", "tomorrow", 24),
        ("bob", "s6", "detail-page-view", "hat", 5),
    )
    evaluation = build_requests(events, START, END)
    (request,) = evaluation.requests  # bob bought nothing
    assert (request.user_id, request.session_id) == ("ann", "s3")
    assert request.requested_at == START + timedelta(hours=2)
    assert [(past.item_id, past.event_type) for past in request.history] == [
        ("hat", "purchase"),
        ("coat", "detail-page-view"),
    ]
    assert all(past.timestamp < request.requested_at for past in request.history)
    assert evaluation.relevant == [["scarf", "gloves"]]
    assert evaluation.history_lengths.tolist() == [2]


def test_guests_are_their_session_and_an_id_shared_with_a_user_stays_two_shoppers():
    events = events_of(
        ("x", None, "purchase", "hat", -1),
        (None, "x", "purchase", "coat", 1),
        ("x", None, "purchase", "tie", 2),
        (None, None, "purchase", "lost", 3),
    )
    guest, user = build_requests(events, START, END).requests
    assert (guest.user_id, guest.session_id, guest.history) == (None, "x", ())
    assert user.user_id == "x"
    assert [past.item_id for past in user.history] == ["hat"]


def test_what_a_session_did_before_it_logged_in_is_in_the_history():
    events = events_of(
        ("ann", "s0", "purchase", "hat", -30),
        (None, "s1", "detail-page-view", "coat", -1),
        (None, "s1", "impression", "sock", 1),
        (None, "s1", "detail-page-view", "tie", 2),
        (None, "s2", "detail-page-view", "lamp", 2),
        ("ann", "s1", "purchase", "tie", 3),
        (None, "s1", "detail-page-view", "at the same time", 3),
        ("ann", "s2", "purchase", "lamp", 4),
        (None, "s1", "detail-page-view", "after", 5),
    )
    (request,) = build_requests(events, START, END).requests
    assert request.requested_at == START + timedelta(hours=3)
    assert [past.item_id for past in request.history] == ["hat", "coat", "tie"]
    assert [past.item_id for past in build_requests(events, START, END, history_limit=2).requests[0].history] == [
        "coat",
        "tie",
    ]
    only_session = events.filter(pl.col("event_id") != "0")
    assert len(build_requests(only_session, START, END, known_only=True)) == 1


def test_a_session_id_that_everybody_has_joins_nobody():
    rows = [(f"u{n}", "web", "purchase", "hat", hour) for n in range(30) for hour in (-2, 1)]
    requests = build_requests(events_of(*rows), START, END).requests
    assert [len(request.history) for request in requests] == [1] * 30


def test_histories_are_those_that_the_service_reads(sqlite_engine):
    rng = np.random.default_rng(0)
    choices = (
        ("ann", "bob", "cy", None),
        (*"abcdefgh", None),
        ("detail-page-view", "purchase"),
        ("hat", "tie", "coat"),
    )
    rows = [
        (*(names[rng.integers(len(names))] for names in choices), hour) for hour in np.sort(rng.uniform(-40, 24, 400))
    ]
    events = events_of(*(row for row in rows if row[:2] != (None, None)))
    insert_events(sqlite_engine, events.to_dicts())
    requests = build_requests(events, START, END, history_limit=20).requests
    assert {request.user_id for request in requests} == {"ann", "bob", "cy", None}
    for request in requests:
        served = load_user_history(
            sqlite_engine, request.user_id, request.session_id, limit=20, before=request.requested_at
        )
        assert list(request.history) == served


def test_only_the_newest_events_stay_and_equal_times_keep_their_order():
    past = [("ann", "s", "purchase", f"old{n}", -1) for n in range(5)]
    events = events_of(*past, ("ann", "s", "purchase", "new", 0))
    (request,) = build_requests(events, START, END, history_limit=3).requests
    assert [event.item_id for event in request.history] == ["old2", "old3", "old4"]


def test_many_histories_keep_the_order_of_equal_times():
    """As serving reads them; which item is the newest decides features."""
    rng = np.random.default_rng(0)
    shoppers = [f"u{n}" for n in rng.integers(0, 40, 3_000)]
    past = [(shopper, None, "purchase", f"{n:04}", -9 + n // 400) for n, shopper in enumerate(shoppers)]
    now = [(shopper, None, "purchase", "hat", 1) for shopper in set(shoppers)]
    requests = build_requests(events_of(*past, *now), START, END).requests
    assert len(requests) == 40
    for request in requests:
        history = [event.item_id for event in request.history]
        assert history == sorted(history)


def test_the_window_takes_its_start_and_leaves_its_end():
    events = events_of(("ann", "s", "purchase", "first", 0), ("bob", "s", "purchase", "after", 24))
    assert build_requests(events, START, END).relevant == [["first"]]


def test_other_targets():
    events = events_of(("ann", "s", "add-to-cart", "hat", 1), ("ann", "s", "purchase", "coat", 2))
    assert build_requests(events, START, END, target_types=("add-to-cart",)).relevant == [["hat"]]


def test_those_without_a_history_may_be_left_out_before_the_draw():
    known = [(f"k{n}", None, "detail-page-view", "hat", -30) for n in range(5)]
    events = events_of(*known, *[(f"{kind}{n}", None, "purchase", "hat", 1) for kind in "kn" for n in range(5)])
    assert len(build_requests(events, START, END)) == 10
    questions = build_requests(events, START, END, known_only=True)
    assert [request.user_id for request in questions.requests] == [f"k{n}" for n in range(5)]
    assert len(build_requests(events, START, END, known_only=True, max_users=3)) == 3


def test_a_draw_is_the_same_for_a_seed_whatever_the_order_of_the_events():
    rng = np.random.default_rng(0)
    events = events_of(*[(f"u{n}", f"s{n}", "purchase", f"i{n % 7}", int(rng.integers(24))) for n in range(200)])
    drawn = build_requests(events, START, END, max_users=20, seed=3)
    again = build_requests(events.sample(fraction=1, shuffle=True, seed=1).lazy(), START, END, max_users=20, seed=3)
    other = build_requests(events, START, END, max_users=20, seed=4)
    assert drawn == again
    assert len(drawn) == 20
    assert {request.user_id for request in drawn.requests} != {request.user_id for request in other.requests}
    assert [r.requested_at for r in drawn.requests] == sorted(r.requested_at for r in drawn.requests)


def test_relevance_counts_an_unknown_item_as_missed():
    events = events_of(("ann", "s", "purchase", "known", 1), ("ann", "s", "purchase", "unheard of", 2))
    offsets, rows = build_requests(events, START, END).relevance(["other", "known"])
    assert (offsets.tolist(), rows.tolist()) == ([0, 2], [1, 2])
    assert recall_at_k(np.array([[1, 0]], np.int32), offsets, rows).tolist() == [0.5]


def test_nobody_bought_anything():
    evaluation = build_requests(events_of(("ann", "s", "purchase", "hat", -1)), START, END)
    assert len(evaluation) == 0
    assert [part.tolist() for part in evaluation.relevance(["hat"])] == [[0], []]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": END, "end": START}, "start before its end"),
        ({"start": START.replace(tzinfo=None)}, "start: expected a UTC time with its zone"),
        ({"target_types": ("buy",)}, r"expected some of .* came \['buy'\]"),
        ({"target_types": ()}, r"came \[\]"),
        ({"events": pl.DataFrame({"user_id": ["ann"]})}, r"events: .* missing \['event_id', .* it has \['user_id'\]"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"events": events_of(("ann", "s", "purchase", "hat", 1)), "start": START, "end": END} | change
    with pytest.raises(SchemaError, match=message):
        build_requests(**arguments)
