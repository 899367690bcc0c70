"""The service over HTTP, on SQLite and PostgreSQL, with a small real release."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_shop import CUTOFF, ITEM_IDS, ids, items, publish, serve, settings_for
from sqlalchemy import Engine, func, select, text

from recsys.data.store import insert_events, put_items
from recsys.data.tables import Event, Item, Recommendation
from recsys.schema import LONGEST_ID
from service.app import create_app
from service.deps import Service
from service.newest import newest_items
from service.slate_log import SlateLog


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for release directories, built once."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture
def shop(engine: Engine, releases: Path) -> Engine:
    """A database with the catalogue and a live release."""
    put_items(engine, items())
    publish(engine, releases)
    return engine


@pytest.fixture
def sqlite_shop(sqlite_engine: Engine, releases: Path) -> Engine:
    """The same on SQLite alone, where the database does not matter."""
    put_items(sqlite_engine, items())
    publish(sqlite_engine, releases)
    return sqlite_engine


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


def event(number: int, item_id: str, event_type: str = "detail-page-view", **more: Any) -> dict[str, Any]:
    return {"event_id": f"e{number}", "event_type": event_type, "session_id": "s1", "item_id": item_id, **more}


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem that ``answer`` must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:recsys:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"]
    return body


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


# Bad input


@pytest.mark.parametrize(
    ("path", "body", "field", "words"),
    [
        ("/v1/recommendations", {"filter": "brand = 'Alba'"}, "filter", "not known"),
        ("/v1/recommendations", {"diversity": 0.5}, "diversity", "not known"),
        ("/v1/recommendations", {"user_id": 12}, "user_id", "string"),
        ("/v1/recommendations", {"user_id": ""}, "user_id", "at least 1"),
        ("/v1/recommendations", {"user_id": "a\x00b"}, "user_id", "NUL"),
        ("/v1/recommendations", {"limit": 0}, "limit", "greater than or equal to 1"),
        ("/v1/recommendations", {"limit": "5"}, "limit", "integer"),
        ("/v1/recommendations", {"placement": "checkout"}, "placement", "'home', 'product' or 'cart'"),
        ("/v1/recommendations", {"item_ids": ["ok", 3]}, "item_ids.1", "string"),
        ("/v1/recommendations", {"placement": "product"}, "body", "item_ids"),
        ("/v1/recommendations", [1], "body", "valid dictionary"),
        ("/v1/items:similar", {}, "item_id", "expected this field"),
        ("/v1/items:similar", {"item_id": "red-01", "weights": {"sound": 1}}, "weights.sound", "not known"),
        ("/v1/events", {"event": []}, "events", "expected this field"),
    ],
)
def test_a_bad_body_names_the_field(sqlite_client: TestClient, path: str, body: Any, field: str, words: str) -> None:
    came = problem(sqlite_client.post(path, json=body), 422, "validation")
    errors = {error["field"]: error for error in came["errors"]}
    assert field in errors
    assert words in errors[field]["message"]
    assert field in came["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("price_cents", -1),
        ("price_cents", 10**30),
        ("price_cents", 19.99),
        ("title", "\ud800"),
        ("attributes", {"colour": 3}),
        ("attributes", {"a\x00": "b"}),
        ("created_at", 1738318500),
        ("created_at", "0001-01-01T00:00:00+14:00"),
        ("created_at", "1969-12-31T23:59:59Z"),
        ("images", "one.jpg"),
        ("images", ["../../etc/secret.jpg"]),
        ("images", ["images/../../secret.jpg"]),
        ("images", ["images\\..\\secret.jpg"]),
        ("images", ["file:///etc/secret.jpg"]),
        ("in_stock", None),
        ("in_stock", "yes"),
    ],
)
def test_a_bad_item_is_refused_and_nothing_is_stored(sqlite_client: TestClient, field: str, value: Any) -> None:
    body = json.dumps({"title": "Fine", field: value})  # escapes half a surrogate pair, which a client's UTF-8 cannot
    answer = sqlite_client.put("/v1/items/bad", content=body, headers={"content-type": "application/json"})
    came = problem(answer, 422, "validation")
    assert all(error["field"].startswith(field) for error in came["errors"])
    assert sqlite_client.get("/v1/items/bad").status_code == 404


@pytest.mark.parametrize("content", [b"", b"{", b'{"limit": 3,}', b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_not_json(sqlite_client: TestClient, content: bytes) -> None:
    answer = sqlite_client.post("/v1/recommendations", content=content, headers={"content-type": "application/json"})
    if content:
        problem(answer, 400, "not-json")
    else:
        assert problem(answer, 422, "validation")["errors"][0]["field"] == "body"


def test_a_body_that_is_not_said_to_be_json(sqlite_client: TestClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # what `curl -d` says by itself
    answer = sqlite_client.post("/v1/recommendations", content=b'{"limit": 3}', headers=form)
    detail = problem(answer, 415, "not-json")["detail"]
    assert detail == ('expected the header Content-Type: application/json, came "application/x-www-form-urlencoded"')
    none = sqlite_client.post("/v1/recommendations", content=b'{"limit": 3}')
    assert problem(none, 415, "not-json")["detail"].endswith("came none")


def test_numbers_that_json_does_not_have_are_refused(sqlite_client: TestClient) -> None:
    answer = sqlite_client.post(
        "/v1/events",
        content=b'{"events": [{"event_id": "e", "event_type": "rating", "user_id": "u", "item_id": "i","value":NaN}]}',
        headers={"content-type": "application/json"},
    )
    assert answer.json()["rejected"][0]["error"].startswith("value: Input should be a finite number")


def test_unknown_paths_and_methods_are_problems(sqlite_client: TestClient) -> None:
    assert "/docs" in problem(sqlite_client.get("/v1/recommendation"), 404, "unknown-path")["detail"]
    problem(sqlite_client.get("/v1/recommendations"), 405, "method-not-allowed")
    for method, path, allowed in (
        ("GET", "/v1/recommendations", "POST"),
        ("POST", "/v1/items/red-01", "DELETE, GET, PATCH, PUT"),
        ("POST", "/v1/items/shoes/red/42", "DELETE, GET, PATCH, PUT"),
        ("POST", "/health/ready", "GET"),
        ("POST", "/docs", "GET"),
    ):
        assert sqlite_client.request(method, path).headers["allow"] == allowed, path


def test_a_large_body_is_refused_declared_or_not(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop, settings_for(sqlite_shop, max_body_bytes=2_000)) as (client, _):
        body = b'{"events": [' + b" " * 3_000 + b"]}"
        json_type = {"content-type": "application/json"}
        declared = client.post("/v1/events", content=body, headers=json_type)
        assert "2000" in problem(declared, 413, "body-too-large")["detail"]
        pieces = (body[start : start + 500] for start in range(0, len(body), 500))
        problem(client.post("/v1/events", content=pieces, headers=json_type), 413, "body-too-large")
        assert client.post("/v1/events", content=b'{"events": []}', headers=json_type).status_code == 200


# When parts are missing or broken


def test_without_a_release_the_newest_items_are_answered(engine: Engine, releases: Path) -> None:
    put_items(engine, items())
    with serve(engine) as (client, service):
        came = problem(client.get("/health/ready"), 503, "not-ready")
        assert "no release is published yet" in came["detail"]
        answer = post(
            client, "/v1/recommendations", placement="cart", item_ids=["red-29"], exclude_item_ids=["blue-29"], limit=3
        )
        assert (answer["fallback"], answer["release"]) == ("newest", None)
        assert ids(answer) == ["blue-28", "red-28", "blue-27"]
        assert ids(post(client, "/v1/items:similar", item_id="red-01", limit=1)) == ["red-29"]
        assert client.get("/health/live").json() == {"status": "alive"}
        version = publish(engine, releases)
        assert service.live.refresh()
        assert client.get("/health/ready").json() == {"status": "ready", "release": version}
        assert post(client, "/v1/recommendations")["release"] == version


def test_items_of_unknown_age_are_the_last_of_the_newest(engine: Engine) -> None:
    bare = [{"item_id": "b-undated"}, {"item_id": "a-undated"}, {"item_id": "gone", "in_stock": False}]
    put_items(engine, [*items()[:2], *bare])

    def newest(*arguments: Any, **options: Any) -> list[str]:
        return [item.item_id for item in newest_items(engine, *arguments, **options).items]

    assert newest(10) == ["blue-01", "blue-00", "a-undated", "b-undated"]
    assert newest(2, {"blue-01", "a-undated"}) == ["blue-00", "b-undated"]
    assert newest(10, category="Dresses > Blue") == ["blue-01", "blue-00"]


def test_an_empty_shop_answers_with_an_empty_slate(sqlite_engine: Engine) -> None:
    with serve(sqlite_engine) as (client, _):
        answer = post(client, "/v1/recommendations", return_items=True)
        assert (answer["fallback"], answer["items"]) == ("newest", [])


def test_a_request_path_that_breaks_costs_no_answer(sqlite_shop: Engine) -> None:
    calls = []

    def breaks(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:  # the first is the service's own trial of the release
            raise RuntimeError("broken")
        return []

    with serve(sqlite_shop, recommend=breaks) as (client, service):
        answer = post(client, "/v1/recommendations", limit=2)
        assert (answer["fallback"], ids(answer)) == ("newest", ["blue-29", "red-29"])
        broken = service.metrics.registry.get_sample_value("recsys_broken_parts_total", {"part": "recommend"})
        assert broken == 1


def test_a_history_that_cannot_be_read_costs_no_answer(running: tuple[TestClient, Service], shop: Engine) -> None:
    client, service = running
    with shop.begin() as connection:
        connection.execute(text("DROP TABLE events"))
    answer = post(client, "/v1/recommendations", user_id="u1", exclude_purchased=True)
    assert answer["fallback"] == "trending"
    assert len(answer["items"]) == 12
    for part in ("history", "purchases"):
        assert service.metrics.registry.get_sample_value("recsys_broken_parts_total", {"part": part}) == 1


def test_a_clock_behind_that_of_the_night_costs_no_answer(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop, settings_for(sqlite_shop, as_of=CUTOFF - timedelta(minutes=3))) as (client, _):
        by_page = post(client, "/v1/recommendations", placement="product", item_ids=["red-01"])
        assert (by_page["fallback"], by_page["release"] is not None) == ("without_ranker", True)
        post(client, "/v1/events", events=[event(1, "red-02", timestamp=(CUTOFF - timedelta(minutes=3)).isoformat())])
        assert post(client, "/v1/recommendations", session_id="s1")["fallback"] == "without_ranker"


def test_what_nobody_expected_is_a_problem_too(sqlite_shop: Engine) -> None:
    app = create_app(settings_for(sqlite_shop))
    app.add_api_route("/broken", lambda: 1 / 0)
    with TestClient(app, raise_server_exceptions=False) as client:
        came = problem(client.get("/broken"), 500, "internal")
        assert "division" not in came["detail"]


def test_a_database_that_is_away_is_a_503_where_it_is_needed(sqlite_running: tuple[TestClient, Service]) -> None:
    client, service = sqlite_running
    with service.engine.begin() as connection:
        connection.execute(text("ALTER TABLE events RENAME TO elsewhere"))  # SQLite calls this an operational error
    came = problem(client.post("/v1/events", json={"events": [event(1, "red-01")]}), 503, "database-unavailable")
    assert "nothing was stored" in came["detail"]


# A release and its stock, kept fresh


def test_stock_changed_elsewhere_is_seen_at_the_next_look(shop: Engine) -> None:
    everything = {"limit": 100}
    with serve(shop) as (client, service), serve(shop) as (other, _):
        other.put("/v1/items/red-03", json={"title": "Red dress 03", "in_stock": False})
        assert "red-03" in ids(post(client, "/v1/recommendations", **everything))
        assert service.live.refresh() is False
        assert "red-03" not in ids(post(client, "/v1/recommendations", **everything))
        with shop.begin() as connection:
            gone = {"deleted_at": datetime.now(UTC), "updated_at": datetime.now(UTC)}
            connection.execute(Item.__table__.update().where(Item.item_id == "red-04").values(**gone))
        service.live.refresh()
        assert "red-04" not in ids(post(client, "/v1/recommendations", **everything))


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
