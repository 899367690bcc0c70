"""Search over HTTP with the real encoders: words, filters, what breaks. Pictures: test_service_search_pictures.py."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from search_shop import find, find_like, picture, publish_searchable, reds, serving, standing_client
from service_shop import ids, items, publish, serve
from sqlalchemy import Engine, select

from recsys.artifacts import load_release
from recsys.data.store import put_items
from recsys.data.tables import Recommendation
from recsys.embedder import Embedder
from service.deps import Service
from service.shelf import Facts, Filter, Shelf

PROBLEM = "urn:recsys:problem:"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for all tests that change nothing."""
    with standing_client(tmp_path_factory) as client:
        yield client


@pytest.fixture
def running(engine: Engine) -> Iterator[tuple[TestClient, Service]]:
    """On both databases."""
    with serving(engine) as started:
        yield started


# By words


@pytest.mark.slow
def test_words_are_answered_logged_and_explained(running: tuple[TestClient, Service]) -> None:
    client, service = running
    answer = find(client, text="red dress", limit=8, explain=True, return_items=True, user_id="u1", session_id="s1")
    assert set(answer) == {"recommendation_id", "release", "variant", "fallback", "items", "took_ms"}
    assert answer["fallback"] == "full"
    assert reds(answer) == 8
    assert [item["rank"] for item in answer["items"]] == list(range(1, 9))
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["items"][0]["title"].startswith("Red dress")
    for item in answer["items"]:
        (reason,) = item["reasons"]
        assert set(reason["shares"]) <= {"image", "text", "reviews", "words"}
        assert sum(reason["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert "red dress" in reason["text"]
    service.slate_log.flush()
    with service.engine.connect() as connection:
        row = connection.execute(select(Recommendation.__table__)).one()
    assert (row.placement, row.user_id, row.session_id, row.fallback) == ("search", "u1", "s1", "full")
    assert [item["item_id"] for item in row.items] == ids(answer)


@pytest.mark.slow
@pytest.mark.parametrize("code", ["blue-07", "BLUE-07", " red-29 "])
def test_a_code_is_found_first(standing: TestClient, code: str) -> None:
    assert ids(find(standing, text=code))[0] == code.strip().lower()


@pytest.mark.slow
def test_what_only_a_review_says_is_found(standing: TestClient) -> None:
    answer = find(standing, text="squeaks", explain=True)
    assert ids(answer)[0] == "red-05"
    assert answer["items"][0]["reasons"][0]["shares"]["reviews"] > 0.3


@pytest.mark.slow
def test_a_word_that_nobody_says_is_answered_by_meaning(standing: TestClient) -> None:
    assert reds(find(standing, text="scarlet", limit=6)) >= 4
    assert find(standing, text="scarlet")["fallback"] == "full"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"category": "Dresses > Blue"}, {f"blue-{n:02}" for n in range(30)}),
        ({"category": " dresses>blue "}, {f"blue-{n:02}" for n in range(30)}),
        ({"category": "Dresses"}, {f"{c}-{n:02}" for c in ("red", "blue") for n in range(30)}),
        ({"category": "Dress"}, set()),
        ({"brand": ["alba"], "price_from_cents": 1028}, {"red-28", "red-29", "blue-28", "blue-29"}),
        ({"price_from_cents": 1003, "price_to_cents": 1003}, {"red-03", "blue-03"}),
        ({"brand": ["Nobody"]}, set()),
    ],
)
def test_a_filter_holds(standing: TestClient, wanted: dict[str, Any], expected: set[str]) -> None:
    assert set(ids(find(standing, text="dress", limit=100, filter=wanted))) == expected


@pytest.mark.slow
def test_what_is_sold_out_is_shown_only_where_asked_for(running: tuple[TestClient, Service]) -> None:
    client, _ = running
    assert client.patch("/v1/items/red-04", json={"in_stock": False}).status_code == 200
    assert "red-04" not in ids(find(client, text="red-04", limit=100))
    assert ids(find(client, text="red-04", filter={"in_stock": False}))[0] == "red-04"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": "  "}, "text"),
        ({"text": "\x00"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a" * 501}, "text"),
        ({"text": "a", "limit": 0}, "limit"),
        ({"text": "a", "limit": "5"}, "limit"),
        ({"text": "a", "filter": {"colour": "red"}}, "filter.colour"),
        ({"text": "a", "filter": {"price_from_cents": 5, "price_to_cents": 4}}, "filter"),
        ({"text": "a", "filter": {"category": ""}}, "filter.category"),
        ({"text": "a", "filter": []}, "filter"),
        ({"text": "a", "image": "data"}, "image"),
        (["text"], "body"),
    ],
)
def test_what_is_not_as_expected_is_named(standing: TestClient, body: Any, field: str) -> None:
    answer = standing.post("/v1/search", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == PROBLEM + "validation"
    assert [error["field"] for error in answer.json()["errors"]] == [field]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"text": "red"}', "text/plain", 415),
        (b"text=red", "application/x-www-form-urlencoded", 415),
        (b"no boundary", "multipart/form-data", 400),
        (b"--x\r\nrubbish\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_a_body_of_another_form_is_a_problem(standing: TestClient, content: bytes, kind: str, status: int) -> None:
    answer = standing.post("/v1/search", content=content, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# What breaks


def test_before_the_first_night_what_came_last_is_answered_within_the_filter(engine: Engine) -> None:
    put_items(engine, items())
    with serve(engine) as (client, _):
        answer = find(client, text="red", limit=3, filter={"category": "Dresses > Blue", "price_to_cents": 1020})
        assert (answer["release"], answer["fallback"]) == (None, "newest")
        assert ids(answer) == ["blue-20", "blue-19", "blue-18"]
        assert find_like(client, picture("red"), limit=2).json()["fallback"] == "newest"


def test_a_release_of_before_there_was_search_answers(sqlite_engine: Engine, tmp_path: Path) -> None:
    put_items(sqlite_engine, items())
    publish(sqlite_engine, tmp_path)  # neither words nor an aligner
    with serve(sqlite_engine) as (client, _):
        answer = find(client, text="red", limit=3, filter={"category": "Dresses > Blue"})
        assert answer["fallback"] == "newest"
        assert ids(answer) == ["blue-29", "blue-28", "blue-27"]


@pytest.mark.slow
def test_without_words_the_meaning_answers(sqlite_engine: Engine) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)
    with serve(sqlite_engine, load_release=lambda path: replace(load_release(path), search=None)) as (client, _):
        answer = find(client, text="red dress", limit=6)  # waits for the encoders: nothing else can answer
        assert answer["fallback"] == "without_words"
        assert reds(answer) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["weights", "heads"])
def test_broken_encoders_leave_the_words(sqlite_engine: Engine, broken: str, caplog: pytest.LogCaptureFixture) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)

    def load(path: str) -> Any:
        release = load_release(path)
        config = {
            **release.manifest.config,
            "text_encoder": {"model": "/nowhere"},
            "image_encoder": {"model": "/nowhere"},
        }
        folder = Path(path) if broken == "weights" else Path("/nowhere")
        return replace(release, embedder=Embedder(folder, config))

    with serve(sqlite_engine, load_release=load) as (client, service):
        answer = find(client, text="red-07", limit=6)
        assert (answer["fallback"], ids(answer)[0]) == ("without_encoder", "red-07")
        assert find_like(client, picture("red"), limit=2).json()["fallback"] == "newest"
        client.put("/v1/items/quokka-1", json={"title": "Quokka hat"})
        service.newcomers.flush()
        assert ids(find(client, text="quokka"))[0] == "quokka-1"
        assert client.post("/v1/recommendations", json={}).status_code == 200
    assert "search answers by words alone" in caplog.text


@pytest.mark.slow
def test_a_broken_image_encoder_leaves_search_by_words_whole(sqlite_engine: Engine) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)

    def load(path: str) -> Any:
        release = load_release(path)
        config = {**release.manifest.config, "image_encoder": {"model": "/nowhere"}}
        return replace(release, embedder=Embedder(Path(path), config))

    with serve(sqlite_engine, load_release=load) as (client, service):
        live = service.live.current
        assert live is not None
        assert live.release.embedder.wait(120)
        assert find_like(client, picture("red"), limit=2).json()["fallback"] == "newest"
        assert find_like(client, picture("red"), text="red dress", limit=2).json()["fallback"] == "without_encoder"
        assert find(client, text="scarlet")["fallback"] == "full"


@pytest.mark.slow
def test_the_first_query_does_not_wait_for_encoders_that_still_load(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)
    go_on = threading.Event()
    warm = Embedder.warm

    def slowly(embedder: Embedder) -> None:
        assert go_on.wait(60)
        warm(embedder)

    monkeypatch.setattr(Embedder, "warm", slowly)
    with serve(sqlite_engine) as (client, service):
        first = find(client, text="red-07")
        assert (first["fallback"], ids(first)[0]) == ("without_encoder", "red-07")
        go_on.set()
        live = service.live.current
        assert live is not None
        assert live.release.embedder is not None
        assert live.release.embedder.wait(120)
        assert find(client, text="red-07")["fallback"] == "full"


def test_a_filter_holds_for_many_categories_as_for_few():
    shelf = Shelf(40)
    for row in range(36):  # the last four rows are of no item, and every sixth item has no category
        category = None if row % 6 == 5 else f"Women > Part {row % 12}" if row < 24 else "Men"
        shelf.put(row, Facts(listed=True, in_stock=True, category=category, brand=f"Brand {row}"))
    women = [row for row in range(24) if row % 6 != 5]
    assert np.flatnonzero(shelf.allowed(Filter(category="women"), 40)).tolist() == women  # ten paths
    assert np.flatnonzero(shelf.allowed(Filter(category="women > part 3"), 40)).tolist() == [3, 15]
    assert np.flatnonzero(shelf.allowed(Filter(category="shoes"), 40)).tolist() == []
    many = Filter(brands=tuple(f"brand {row}" for row in range(20)))
    assert np.flatnonzero(shelf.allowed(many, 40)).tolist() == list(range(20))
