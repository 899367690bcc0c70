"""When parts are missing or broken: a lesser answer, never none."""

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from service_shop import CUTOFF, event, ids, items, post, problem, publish, serve, settings_for
from sqlalchemy import Engine, text
from sqlalchemy.event import listens_for

from recsys.data.store import put_items
from service.app import create_app
from service.newest import newest_items


def test_without_a_release_the_newest_items_are_answered(engine: Engine, tmp_path: Path) -> None:
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
        version = publish(engine, tmp_path)
        assert service.live.take_published()
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


def test_a_history_that_cannot_be_read_costs_no_answer(shop: Engine) -> None:
    with serve(shop) as (client, service):
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


def test_a_database_that_is_away_is_a_503_where_it_is_needed(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop) as (client, service):
        with service.engine.begin() as connection:
            connection.execute(text("ALTER TABLE events RENAME TO elsewhere"))  # SQLite calls this an operational error
        came = problem(client.post("/v1/events", json={"events": [event(1, "red-01")]}), 503, "database-unavailable")
        assert "nothing was stored" in came["detail"]


def test_a_writer_that_waits_for_another_keeps_no_reader_waiting(sqlite_shop: Engine) -> None:
    waiting, stored = threading.Event(), []
    with serve(sqlite_shop, settings_for(sqlite_shop, request_threads=1)) as (client, service):

        @listens_for(service.engine, "before_cursor_execute")
        def note_insert(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("INSERT INTO events"):
                waiting.set()

        writer = threading.Thread(target=lambda: stored.append(post(client, "/v1/events", events=[event(1, "red-01")])))
        with sqlite_shop.execution_options(sqlite_begin="IMMEDIATE").begin():  # as an import holds it
            writer.start()
            assert waiting.wait(30)
            assert len(post(client, "/v1/recommendations", return_items=True)["items"]) == 12
            assert client.get("/health/ready").status_code == 200
            assert writer.is_alive()
        writer.join(30)
        assert stored == [{"accepted": 1, "duplicates": 0, "rejected": []}]
