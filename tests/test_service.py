"""The service over HTTP, on SQLite and PostgreSQL, with a small real release."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_shop import ITEM_IDS, event, ids, items, post, problem, serve, settings_for
from sqlalchemy import Engine, func, select

from recsys.data.store import insert_events, put_items
from recsys.data.tables import Event, Item, Recommendation
from recsys.schema import LONGEST_ID
from service.deps import Service
from service.slate_log import SlateLog


@pytest.fixture
def running(shop: Engine) -> Iterator[tuple[TestClient, Service]]:
    with serve(shop) as started:
        yield started


@pytest.fixture
def client(running: tuple[TestClient, Service]) -> TestClient:
    return running[0]


@pytest.fixture
def sqlite_running(sqlite_shop: Engine) -> Iterator[tuple[TestClient, Service]]:
    with serve(sqlite_shop) as started:
        yield started


@pytest.fixture
def sqlite_client(sqlite_running: tuple[TestClient, Service]) -> TestClient:
    return sqlite_running[0]


# Recommendations


def test_a_shopper_with_a_taste_gets_items_of_that_taste(client: TestClient) -> None:
    post(client, "/v1/events", events=[event(n, f"red-{n:02}") for n in range(4)])
    answer = post(client, "/v1/recommendations", placement="home", session_id="s1", limit=8)
    assert set(answer) == {"recommendation_id", "release", "variant", "fallback", "items", "took_ms"}
    assert answer["fallback"] == "without_ranker"  # this small release has none
    assert answer["variant"] == "default"
    assert answer["took_ms"] > 0
    assert [item["rank"] for item in answer["items"]] == list(range(1, 9))
    assert len(set(ids(answer))) == 8
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert Counter(item_id[:3] for item_id in ids(answer))["red"] >= 7
    assert all(set(item) == {"id", "rank", "score", "reasons"} and item["reasons"] == [] for item in answer["items"])


def test_the_next_request_sees_the_events(client: TestClient) -> None:
    before = post(client, "/v1/recommendations", session_id="s1", explain=True)
    assert before["fallback"] == "trending"
    post(client, "/v1/events", events=[event(1, "blue-03", "add-to-cart")])
    after = post(client, "/v1/recommendations", session_id="s1", explain=True)
    assert after["fallback"] == "without_ranker"
    reasons = [reason for item in after["items"] for reason in item["reasons"]]
    assert "blue-03" in {reason["item_id"] for reason in reasons}
    assert all(reason["source"] and reason["text"] for reason in reasons)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": "nobody"},
        {"placement": "cart"},
        {"placement": "product", "item_ids": ["not-in-the-shop"]},
        {"user_id": "nobody", "exclude_purchased": True, "exclude_item_ids": ["not-in-the-shop"]},
    ],
)
def test_who_and_what_nobody_knows_still_gets_an_answer(sqlite_client: TestClient, body: dict[str, Any]) -> None:
    answer = post(sqlite_client, "/v1/recommendations", **body)
    assert answer["fallback"] == "trending"
    assert len(answer["items"]) == 12


def test_a_page_shows_its_likes_and_never_itself(sqlite_client: TestClient) -> None:
    on_page = post(sqlite_client, "/v1/recommendations", placement="product", item_ids=["blue-05"], limit=6)
    assert "blue-05" not in ids(on_page)
    assert sum(item_id.startswith("blue") for item_id in ids(on_page)) >= 5
    cart = post(sqlite_client, "/v1/recommendations", placement="cart", item_ids=["red-01", "red-02"], limit=50)
    assert not {"red-01", "red-02"} & set(ids(cart))


def test_what_was_given_or_ever_bought_can_be_left_out(shop: Engine) -> None:
    # Bought first, then looked at much more than a history holds.
    bought = [event(n, f"red-{n:02}", "purchase", timestamp="2026-03-01T10:00:00Z") for n in range(3)]
    seen = [event(100 + n, f"red-{n:02}", timestamp="2026-03-02T10:00:00Z") for n in range(10)]
    before = [event(200, "red-03", "purchase", user_id="u1", session_id="s0")]
    with serve(shop, settings_for(shop, history_limit=5)) as (client, _):
        post(client, "/v1/events", events=before + bought + seen)
        asked = {"user_id": "u1", "session_id": "s1", "limit": 60, "exclude_item_ids": ["red-20", "blue-20"]}
        without = post(client, "/v1/recommendations", **asked, exclude_purchased=True)
        assert set(ids(without)) == set(ITEM_IDS) - {f"red-{n:02}" for n in range(4)} - {"red-20", "blue-20"}
        with_bought = post(client, "/v1/recommendations", **asked)
        assert set(ids(with_bought)) == set(ITEM_IDS) - {"red-20", "blue-20"}


def test_return_items_adds_what_a_storefront_draws(client: TestClient) -> None:
    answer = post(client, "/v1/recommendations", return_items=True, limit=3)
    for item in answer["items"]:
        assert next(iter(item)) == "id"  # what a person looks for first
        colour, number = item["id"].split("-")
        assert item["title"] == f"{colour.title()} dress {number}"
        assert item["price_cents"] == 1000 + int(number)
        assert item["brand"] == "Alba"
        assert item["image"] == f"images/{item['id']}.jpg"
        assert item["category"] == f"Dresses > {colour.title()}"
        assert item["in_stock"] is True


def test_every_slate_is_logged_as_it_was_answered(running: tuple[TestClient, Service], shop: Engine) -> None:
    client, service = running
    asked_at = datetime.now(UTC)
    answer = post(client, "/v1/recommendations", user_id="u1", session_id="s1", placement="home", limit=4)
    similar = post(client, "/v1/items:similar", item_id="red-01", limit=2)
    service.slate_log.flush()
    with shop.connect() as connection:
        rows = {row.recommendation_id: row for row in connection.execute(select(Recommendation.__table__))}
    assert set(rows) == {answer["recommendation_id"], similar["recommendation_id"]}
    row = rows[answer["recommendation_id"]]
    assert (row.placement, row.user_id, row.session_id) == ("home", "u1", "s1")
    assert (row.release, row.variant, row.fallback) == (answer["release"], "default", "trending")
    assert row.items == [
        {"item_id": item["id"], "rank": item["rank"], "score": item["score"], "propensity": 1.0}
        for item in answer["items"]
    ]
    assert row.took_ms == pytest.approx(answer["took_ms"], abs=1e-3)
    assert abs(row.requested_at - asked_at) < timedelta(minutes=1)
    assert rows[similar["recommendation_id"]].placement == "similar"


def test_shutdown_writes_the_slates_that_wait(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop) as (client, _):
        for _ in range(20):
            post(client, "/v1/recommendations")
    with sqlite_shop.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Recommendation)) == 20


def test_a_full_slate_queue_drops_and_counts(sqlite_running: tuple[TestClient, Service]) -> None:
    _, service = sqlite_running
    log = SlateLog(service.engine, 2, service.metrics)  # never started: nothing empties it
    for _ in range(5):
        log.append({})
    assert service.metrics.registry.get_sample_value("recsys_slates_total", {"outcome": "dropped"}) == 3


# Similar items


def test_similar_items_are_alike_and_in_stock(client: TestClient) -> None:
    answer = post(client, "/v1/items:similar", item_id="red-04", limit=10)
    assert answer["fallback"] == "full"
    assert "red-04" not in ids(answer)
    assert all(item_id.startswith("red") for item_id in ids(answer))
    nearest = ids(answer)[0]
    assert client.put(f"/v1/items/{nearest}", json={"in_stock": False}).status_code == 200
    again = post(client, "/v1/items:similar", item_id="red-04", limit=10, exclude_item_ids=[ids(answer)[1]])
    assert ids(again)[:8] == ids(answer)[2:]
    assert len(again["items"]) == 10


def test_weights_choose_what_likeness_means(sqlite_client: TestClient) -> None:
    by_image = post(sqlite_client, "/v1/items:similar", item_id="red-04", weights={"image": 1}, limit=5)
    by_behaviour = post(sqlite_client, "/v1/items:similar", item_id="red-04", weights={"behaviour": 1}, limit=5)
    assert by_image["items"]
    assert by_behaviour["items"]
    assert ids(by_image) != ids(by_behaviour)
    none = sqlite_client.post("/v1/items:similar", json={"item_id": "red-04", "weights": {"image": 0}})
    assert "above zero" in problem(none, 422, "validation")["detail"]


def test_an_item_that_waits_for_the_night_gets_the_newest_of_its_category(client: TestClient) -> None:
    client.put("/v1/items/red-new", json={"title": "Red dress new", "category": "Dresses > Red"})
    answer = post(client, "/v1/items:similar", item_id="red-new", limit=3)
    assert answer["fallback"] == "newest"
    assert answer["release"] is None
    assert ids(answer) == ["red-29", "red-28", "red-27"]
    problem(client.post("/v1/items:similar", json={"item_id": "not-in-the-shop"}), 404, "unknown-item")


# Events


def test_good_events_go_in_and_bad_ones_come_back(client: TestClient, shop: Engine) -> None:
    now = datetime.now(UTC)
    sent = [
        event(1, "red-01"),
        event(2, "red-02", "purchase", value=1002, quantity=2, timestamp="2026-03-02T10:00:00+02:00"),
        event(3, "red-03", "bought"),
        event(4, "red-04", "purchase", quantity=-1),
        event(5, "red-05", timestamp="2026-03-02T10:00:00"),
        event(6, "red-06", timestamp=(now + timedelta(days=2)).isoformat()),
        event(7, "red-07", colour="red"),
        {"event_id": "e8", "event_type": "purchase", "item_id": "red-08"},
        {"event_id": "e9", "event_type": "purchase", "user_id": "u1"},
        {"event_id": "e10", "event_type": "search", "user_id": "u1", "properties": {"query": "red dress", "page": 2}},
        event(11, "red-11", "rating", value=6),
        event(12, "red\x0012"),
        event(1, "red-01"),
        "not an event",
    ]
    answer = post(client, "/v1/events", events=sent)
    assert (answer["accepted"], answer["duplicates"]) == (3, 1)
    errors = {rejected["index"]: rejected["error"] for rejected in answer["rejected"]}
    expected = {
        2: ["event_type", "purchase", '"bought"'],
        3: ["quantity", "1", "-1"],
        4: ["timestamp", "offset", "2026-03-02T10:00:00"],
        5: ["timestamp", "future"],
        6: ["colour", "not known", '"red"'],
        7: ["user_id or session_id"],
        8: ["item_id", "purchase"],
        10: ["value", "1 and 5"],
        11: ["item_id", "NUL"],
        13: ["not an event"],
    }
    assert set(errors) == set(expected)
    for index, words in expected.items():
        assert all(word in errors[index] for word in words), errors[index]
    assert answer["accepted"] + answer["duplicates"] + len(errors) == len(sent)
    with shop.connect() as connection:
        rows = {row.event_id: row for row in connection.execute(select(Event.__table__))}
    assert set(rows) == {"e1", "e2", "e10"}
    assert rows["e2"].timestamp == datetime(2026, 3, 2, 8, tzinfo=UTC)
    assert (rows["e2"].value, rows["e2"].quantity) == (1002, 2)
    assert abs(rows["e1"].timestamp - now) < timedelta(minutes=1)
    assert rows["e10"].properties == {"query": "red dress", "page": 2}


def test_sending_events_again_is_harmless(client: TestClient, shop: Engine) -> None:
    sent = [event(n, f"red-{n:02}") for n in range(5)]
    assert post(client, "/v1/events", events=sent) == {"accepted": 5, "duplicates": 0, "rejected": []}
    changed = [{**one, "item_id": "blue-01"} for one in sent]
    assert post(client, "/v1/events", events=[*changed, event(5, "red-05")]) == {
        "accepted": 1,
        "duplicates": 5,
        "rejected": [],
    }
    with shop.connect() as connection:
        assert set(connection.scalars(select(Event.item_id))) == {f"red-{n:02}" for n in range(6)}
    assert post(client, "/v1/events", events=[]) == {"accepted": 0, "duplicates": 0, "rejected": []}


def test_an_event_from_a_clock_that_is_ahead_counts_at_once(sqlite_client: TestClient) -> None:
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    assert post(sqlite_client, "/v1/events", events=[event(1, "red-01", timestamp=soon)])["accepted"] == 1
    assert post(sqlite_client, "/v1/recommendations", session_id="s1")["fallback"] == "without_ranker"


# Items


def test_put_creates_then_replaces(client: TestClient) -> None:
    body = {
        "title": "Green hat",
        "description": "Warm.",
        "category": "Hats",
        "brand": "Alba",
        "family": "hat",
        "price_cents": 2500,
        "in_stock": True,
        "attributes": {"colour": "green", "size": ["S", "M"]},
        "images": ["hat.jpg", "hat-back.jpg"],
        "created_at": "2026-02-01T02:00:00+02:00",
    }
    created = client.put("/v1/items/hat-1", json=body)
    assert created.status_code == 201
    stored, read = created.json(), client.get("/v1/items/hat-1").json()
    del stored["in_release"], read["in_release"]  # it joins the release beside the requests: see test_service_newcomers
    assert read == stored
    assert stored.pop("id") == "hat-1"
    assert datetime.fromisoformat(stored.pop("updated_at")).tzinfo is not None
    assert stored == {**body, "created_at": "2026-02-01T00:00:00Z"}
    replaced = client.put("/v1/items/hat-1", json={"title": "Green hat, wool", "images": ["wool.jpg"]})
    assert replaced.status_code == 200
    now = replaced.json()
    assert (now["title"], now["price_cents"], now["attributes"]) == ("Green hat, wool", None, {})
    assert now["images"] == ["wool.jpg"]
    assert now["created_at"] == "2026-02-01T00:00:00Z"
    assert client.get("/v1/items/red-01").json()["in_release"] is True
    new = client.put("/v1/items/hat-2", json={}).json()
    assert datetime.now(UTC) - datetime.fromisoformat(new["created_at"]) < timedelta(minutes=1)


def test_an_id_as_long_as_an_import_takes_is_taken_here(sqlite_client: TestClient) -> None:
    item_id = "x" * LONGEST_ID
    assert sqlite_client.put(f"/v1/items/{item_id}", json={}).status_code == 201
    assert post(sqlite_client, "/v1/events", events=[event(1, item_id)])["accepted"] == 1
    problem(sqlite_client.put(f"/v1/items/{item_id}x", json={}), 422, "validation")


@pytest.mark.parametrize("written", ["shoes/red/42", "shoes%2Fred%2F42"])
def test_an_id_may_hold_slashes(sqlite_client: TestClient, written: str) -> None:
    assert sqlite_client.put(f"/v1/items/{written}", json={"title": "Red shoe"}).json()["id"] == "shoes/red/42"
    assert sqlite_client.patch(f"/v1/items/{written}", json={"brand": "Alba"}).status_code == 200
    assert sqlite_client.get(f"/v1/items/{written}").json()["brand"] == "Alba"
    assert sqlite_client.delete(f"/v1/items/{written}").status_code == 204
    assert sqlite_client.get(f"/v1/items/{written}").status_code == 404


def test_the_next_recommendation_obeys_the_stock(client: TestClient) -> None:
    everything = {"limit": 100, "placement": "product", "item_ids": ["red-00"]}
    assert set(ids(post(client, "/v1/recommendations", **everything))) == set(ITEM_IDS) - {"red-00"}
    client.put("/v1/items/blue-09", json={"title": "Blue dress 09", "in_stock": False})
    assert "blue-09" not in ids(post(client, "/v1/recommendations", **everything))
    client.put("/v1/items/blue-09", json={"title": "Blue dress 09", "in_stock": True})
    assert "blue-09" in ids(post(client, "/v1/recommendations", **everything))


def test_an_unknown_item_is_a_problem(sqlite_client: TestClient) -> None:
    came = problem(sqlite_client.get("/v1/items/nothing"), 404, "unknown-item")
    assert came["errors"] == [{"field": "item_id", "message": "expected an item of the catalogue", "came": '"nothing"'}]
    assert came["instance"] == "/v1/items/nothing"


# A release and its stock, kept fresh


def test_stock_changed_elsewhere_is_seen_at_the_next_look(shop: Engine) -> None:
    everything = {"limit": 100}
    with serve(shop) as (client, service), serve(shop) as (other, _):
        other.put("/v1/items/red-03", json={"title": "Red dress 03", "in_stock": False})
        assert "red-03" in ids(post(client, "/v1/recommendations", **everything))
        service.live.poll()
        assert "red-03" not in ids(post(client, "/v1/recommendations", **everything))
        with shop.begin() as connection:
            gone = {"deleted_at": datetime.now(UTC), "updated_at": datetime.now(UTC)}
            connection.execute(Item.__table__.update().where(Item.item_id == "red-04").values(**gone))
        service.live.poll()
        assert "red-04" not in ids(post(client, "/v1/recommendations", **everything))


@pytest.mark.parametrize("return_items", [False, True])
def test_an_item_deleted_elsewhere_is_gone_from_the_next_answer(shop: Engine, return_items: bool) -> None:
    asked = {"limit": 60, "return_items": return_items}
    calls = [
        ("/v1/recommendations", {**asked, "session_id": "s1"}),
        ("/v1/items:similar", {**asked, "item_id": "red-01"}),
        ("/v1/search", {**asked, "text": "dress"}),
    ]
    with serve(shop) as (client, service), serve(shop) as (other, _):
        before = [ids(post(client, path, **body)) for path, body in calls]
        assert all("red-03" in shown for shown in before)
        assert other.delete("/v1/items/red-03").status_code == 204
        for (path, body), shown in zip(calls, before):
            answer = post(client, path, **body)
            assert ids(answer) == [item_id for item_id in shown if item_id != "red-03"]
            assert [item["rank"] for item in answer["items"]] == list(range(1, len(shown)))
            service.slate_log.flush()
            with shop.connect() as connection:
                logged = connection.scalars(
                    select(Recommendation.items).where(Recommendation.recommendation_id == answer["recommendation_id"])
                ).one()
            assert [item["item_id"] for item in logged] == ids(answer)


def test_the_database_says_what_is_in_stock_when_a_release_is_loaded(shop: Engine) -> None:
    sold_out = [{**item, "in_stock": False} for item in items() if item["item_id"].startswith("red")]
    put_items(shop, sold_out)
    with serve(shop) as (client, _):
        answer = post(client, "/v1/recommendations", limit=100)
        assert set(ids(answer)) == {item_id for item_id in ITEM_IDS if item_id.startswith("blue")}


def test_history_before_the_service_started_counts(shop: Engine) -> None:
    stored = [
        {**event(n, f"red-{n:02}"), "user_id": "u1", "timestamp": datetime(2026, 2, 1, n, tzinfo=UTC)} for n in range(5)
    ]
    insert_events(shop, stored)
    with serve(shop) as (client, _):
        answer = post(client, "/v1/recommendations", user_id="u1", limit=6)
        assert answer["fallback"] == "without_ranker"
        assert sum(item_id.startswith("red") for item_id in ids(answer)) >= 5
