"""Items put since the night: found and recommended seconds later, changed with their picture, gone when deleted."""

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from search_shop import picture, publish_searchable
from service_shop import CUTOFF, ITEM_IDS, ids, items, publish, serve, settings_for
from sqlalchemy import Engine

from recsys.data.releases import publish_release
from recsys.data.store import put_item, put_items
from recsys.data.tables import Item
from recsys.search_index import CODES, SearchIndex, content_keys
from recsys.words import build_vocabulary, build_words
from service.catalogue import delete_item, load_catalogue_items
from service.deps import Service
from service.newcomers import Newcomers


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of pictures that a test may add to."""
    from search_shop import searchable

    return Path(shutil.copytree(searchable()[1], tmp_path / "pictures"))


@pytest.fixture
def running(engine: Engine, pictures: Path) -> Iterator[tuple[TestClient, Service]]:
    """On both databases, with the real encoders."""
    put_items(engine, items())
    publish_searchable(engine)
    with serve(engine, settings_for(engine, images=str(pictures))) as (client, service):
        _ready(service)
        yield client, service


def _ready(service: Service) -> None:
    live = service.live.current
    assert live is not None
    assert live.release.embedder is not None
    assert live.release.embedder.wait(120)
    service.newcomers.flush()


def find(client: TestClient, text: str, **more: Any) -> list[str]:
    answer = client.post("/v1/search", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    return ids(answer.json())


def likes(client: TestClient, colour: str, limit: int) -> list[str]:
    answer = client.post("/v1/search", files={"image": ("photo", picture(colour))}, data={"limit": str(limit)})
    assert answer.status_code == 200, answer.text
    return ids(answer.json())


def browse(client: TestClient, session: str, *seen: str) -> dict[str, Any]:
    """Look at these items; what is recommended then, and why."""
    for item_id in seen:
        event = {"event_id": f"{session}-{item_id}", "event_type": "detail-page-view", "session_id": session}
        client.post("/v1/events", json={"events": [{**event, "item_id": item_id}]})
    answer = client.post("/v1/recommendations", json={"session_id": session, "limit": 100, "explain": True})
    assert answer.status_code == 200
    return {item["id"]: item["reasons"] for item in answer.json()["items"]}


@pytest.mark.slow
def test_a_new_item_is_found_and_recommended_within_five_seconds(
    running: tuple[TestClient, Service], pictures: Path
) -> None:
    client, service = running
    (pictures / "images" / "gown.jpg").write_bytes(picture("red"))
    started = time.monotonic()
    put = client.put(
        "/v1/items/gown-1",
        json={"title": "Quokka gown", "category": "Dresses > Red", "brand": "Alba", "images": ["images/gown.jpg"]},
    )
    assert put.status_code == 201
    service.newcomers.flush()
    assert find(client, "quokka")[0] == "gown-1"
    assert find(client, "gown-1")[0] == "gown-1"
    # With the thirty other red ones, whose order among themselves is the encoder's rounding.
    assert "gown-1" in likes(client, "red", 31)
    assert "gown-1" not in likes(client, "blue", 31)
    # Nobody has bought it, so it stands below what sells to such shoppers; that it is like their past or new brings it.
    (reason,) = browse(client, "s1", "red-01", "red-02", "red-03")["gown-1"]
    assert reason["source"] in ("embedding", "content", "new")
    assert sum(reason["shares"].values()) == pytest.approx(1, abs=0.01)
    assert time.monotonic() - started < 5
    assert client.get("/v1/items/gown-1").json()["in_release"] is True
    similar = client.post("/v1/items:similar", json={"item_id": "gown-1", "limit": 5, "explain": True}).json()
    assert similar["fallback"] == "full"
    assert all(item_id.startswith("red") for item_id in ids(similar))
    assert set(similar["items"][0]["reasons"][0]["shares"]) <= {"image", "text", "reviews"}
    filtered = find(client, "quokka", filter={"category": "Dresses > Red", "brand": ["Alba"]})
    assert filtered[0] == "gown-1"
    assert service.metrics.registry.get_sample_value("recsys_late_items_live") == 1


@pytest.mark.slow
def test_another_picture_or_title_is_another_embedding(running: tuple[TestClient, Service], pictures: Path) -> None:
    client, service = running
    assert "blue-08" in likes(client, "blue", 30)
    assert "blue-08" not in likes(client, "red", 30)
    (pictures / "images" / "blue-08.jpg").write_bytes(picture("red"))  # another file in the same place
    assert client.patch("/v1/items/blue-08", json={"title": "Scarlet gown of silk"}).status_code == 200
    service.newcomers.flush()
    assert "blue-08" in likes(client, "red", 31)
    assert find(client, "silk")[0] == "blue-08"
    live = service.live.current
    assert live is not None
    assert len(live.release.item_ids) == len(items())  # it kept its row


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_stops_nothing(
    running: tuple[TestClient, Service], pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client, service = running
    (pictures / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    for number, image in enumerate(["images/broken.jpg", "nowhere.jpg", "https://shop.example/a.jpg", "a" * 400]):
        client.put(f"/v1/items/odd-{number}", json={"title": f"Quokka number{number}", "images": [image]})
    client.put("/v1/items/good-1", json={"title": "Quokka fine", "images": ["images/red-01.jpg"]})
    service.newcomers.flush()
    assert set(find(client, "quokka")[:5]) == {"odd-0", "odd-1", "odd-2", "odd-3", "good-1"}
    assert "good-1" in likes(client, "red", 31)
    assert "goes without its picture" in caplog.text


@pytest.mark.slow
def test_a_start_and_a_new_release_find_what_came_meanwhile(
    sqlite_engine: Engine, pictures: Path, tmp_path: Path
) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)
    put_item(sqlite_engine, "early-1", {"title": "Quokka early", "images": ["images/red-01.jpg"]})
    with serve(sqlite_engine, settings_for(sqlite_engine, images=str(pictures))) as (client, service):
        _ready(service)
        assert find(client, "quokka")[0] == "early-1"
        # Another worker, an importer: seen at the next look.
        put_item(sqlite_engine, "early-2", {"title": "Quokka later"})
        service.live.poll()
        service.newcomers.flush()
        assert set(find(client, "quokka")[:2]) == {"early-1", "early-2"}
        # Another release goes live, without words or encoders: the items are there from its first answer on.
        second = publish(sqlite_engine, tmp_path / "other", seed=1)
        assert service.live.take_published() is True
        live = service.live.current
        assert live is not None
        assert live.version == second
        assert {"early-1", "early-2"} <= set(live.release.item_ids)
        shown = ids(client.post("/v1/recommendations", json={"limit": 100}).json())
        assert {"early-1", "early-2"} <= set(shown)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
@pytest.mark.parametrize("item_id", ["new-1", "red-07"])
def test_an_item_deleted_while_it_is_embedded_stays_gone(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item_id: str, elsewhere: bool
) -> None:
    put_items(sqlite_engine, items())
    publish(sqlite_engine, tmp_path, search=_index_of(sqlite_engine))
    with serve(sqlite_engine) as (client, service):
        service.newcomers.flush()
        make = service.newcomers.make

        def delete_first(*arguments: Any) -> Any:
            made = make(*arguments)
            if elsewhere:
                assert delete_item(sqlite_engine, item_id)
            else:
                assert client.delete(f"/v1/items/{item_id}").status_code == 204
            return made

        monkeypatch.setattr(service.newcomers, "make", delete_first)
        client.put(f"/v1/items/{item_id}", json={"title": "Quokka"})
        service.newcomers.flush()
        live = service.live.current
        assert live is not None
        assert item_id in live.late
        assert not live.available[live.release.row_of(item_id)]


def dropped_items(service: Service) -> float:
    return service.metrics.registry.get_sample_value("recsys_late_items_total", {"outcome": "dropped"}) or 0.0


def test_more_items_than_there_is_room_for_wait_for_the_night(sqlite_shop: Engine) -> None:
    with serve(sqlite_shop, settings_for(sqlite_shop, late_items=2)) as (client, service):
        for number in range(4):
            client.put(f"/v1/items/new-{number}", json={"title": "New"})
            service.newcomers.flush()
        live = service.live.current
        assert live is not None
        assert list(live.late) == ["new-0", "new-1"]
        assert client.get("/v1/items/new-3").json()["in_release"] is False
        assert dropped_items(service) >= 2


def held_up(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[str]], threading.Event]:
    """The thread at work on item "first" until the event is set, and a list of what it takes together."""
    make, looked = service.newcomers.make, []
    busy, go_on = threading.Event(), threading.Event()

    def note_and_wait(release: Any, item_ids: list[str], version: str) -> Any:
        looked.append(item_ids)
        busy.set()
        assert go_on.wait(30)
        return make(release, item_ids, version)

    monkeypatch.setattr(service.newcomers, "make", note_and_wait)
    client.put("/v1/items/first", json={"title": "Being embedded"})
    assert busy.wait(30)
    return looked, go_on


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_a_single_put_does_not_wait_behind_a_batch(
    plain: tuple[TestClient, Service], sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    client, service = plain
    looked, go_on = held_up(client, service, monkeypatch)
    many = [f"many-{number:02}" for number in range(40)]
    if elsewhere:
        put_items(sqlite_engine, [{"item_id": item_id} for item_id in many])
        put_item(sqlite_engine, "single", {"title": "One"})
        service.live.poll()
    else:
        client.post("/v1/items:batch", json={"items": [{"id": item_id} for item_id in many]})
        client.put("/v1/items/single", json={"title": "One"})
        client.put("/v1/items/many-39", json={"title": "The last of them, again"})
    go_on.set()
    service.newcomers.flush()
    assert "single" in looked[1]
    assert ("many-39" in looked[1]) is not elsewhere
    assert {item_id for item_ids in looked for item_id in item_ids} >= {"single", *many}


def test_where_there_is_no_room_a_single_put_takes_the_place_of_one_of_a_batch(
    sqlite_shop: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(sqlite_shop, settings_for(sqlite_shop, late_items=3)) as (client, service):
        looked, go_on = held_up(client, service, monkeypatch)
        before = dropped_items(service)
        service.newcomers.offer(["many-0", "many-1", "many-2", "many-3"])
        service.newcomers.offer(["single"])
        service.newcomers.offer(["one", "another"])
        service.newcomers.offer(["a", "pair"])  # no better than those that wait
        go_on.set()
        service.newcomers.flush()
        assert looked == [["first"], ["single", "one", "another"]]
        assert dropped_items(service) - before == 1 + 3 + 2


def test_a_batch_that_fails_leaves_the_thread_at_work(
    plain: tuple[TestClient, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = plain
    make = Newcomers.make
    monkeypatch.setattr(Newcomers, "make", lambda *arguments: 1 / 0)
    client.put("/v1/items/new-1", json={"title": "New"})
    service.newcomers.flush()
    monkeypatch.setattr(Newcomers, "make", make)
    assert service.metrics.registry.get_sample_value("recsys_late_items_total", {"outcome": "failed"}) == 1
    client.put("/v1/items/new-1", json={"title": "New"})
    service.newcomers.flush()
    assert client.get("/v1/items/new-1").json()["in_release"] is True


def test_a_release_that_is_taken_at_the_second_try_has_the_late_items_too(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_items(sqlite_engine, items())
    publish(sqlite_engine, tmp_path, seed=0)
    with serve(sqlite_engine) as (client, service):
        client.put("/v1/items/new-1", json={"title": "New"})
        service.newcomers.flush()
        publish(sqlite_engine, tmp_path, seed=1)
        with monkeypatch.context() as broken:
            broken.setattr(service.live, "_warm_up", lambda live: 1 / 0)
            assert service.live.take_published() is False
        monkeypatch.setattr("service.live.RETRY_REFUSED_SECONDS", 0.0)
        assert service.live.take_published() is True
        assert "new-1" in ids(client.post("/v1/recommendations", json={"limit": 100}).json())


def test_after_a_restart_what_merely_changed_takes_no_room_from_what_is_new(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    put_items(sqlite_engine, items())
    publish(sqlite_engine, tmp_path, catalogue_seen=datetime(2026, 1, 1, tzinfo=UTC))
    put_item(sqlite_engine, "new-1", {"title": "New"})
    put_items(sqlite_engine, [{**item, "price_cents": 777} for item in items()[:3]])
    with serve(sqlite_engine, settings_for(sqlite_engine, late_items=2)) as (client, service):
        service.newcomers.flush()
        assert client.get("/v1/items/new-1").json()["in_release"] is True


def test_rolled_back_to_the_release_of_before_the_items_stay(sqlite_engine: Engine, tmp_path: Path) -> None:
    put_items(sqlite_engine, items())
    first = publish(sqlite_engine, tmp_path, seed=0)
    publish(sqlite_engine, tmp_path, seed=1)
    with serve(sqlite_engine) as (client, service):
        client.put("/v1/items/new-1", json={"title": "New"})
        service.newcomers.flush()
        publish_release(sqlite_engine, first)
        assert service.live.take_published() is True
        assert "new-1" in ids(client.post("/v1/recommendations", json={"limit": 100}).json())


def test_the_night_folds_the_late_items_in(sqlite_engine: Engine, tmp_path: Path) -> None:
    """A release that knows the change forgets the late item; one that does not keeps it."""
    put_items(sqlite_engine, items())
    publish(sqlite_engine, tmp_path, search=_index_of(sqlite_engine))
    with serve(sqlite_engine) as (client, service):
        service.newcomers.flush()

        def late() -> list[str]:
            live = service.live.current
            assert live is not None
            return list(live.late)

        assert late() == []
        client.patch("/v1/items/red-05", json={"price_cents": 5})  # neither text nor picture
        service.newcomers.flush()
        assert late() == []
        before = _index_of(sqlite_engine)
        client.patch("/v1/items/red-05", json={"title": "Quokka dress"})
        service.newcomers.flush()
        assert late() == ["red-05"]
        seen = datetime.now(UTC) - timedelta(minutes=1)
        publish(sqlite_engine, tmp_path, seed=1, search=before, catalogue_seen=seen)
        assert service.live.take_published() is True
        assert late() == ["red-05"]
        publish(sqlite_engine, tmp_path, seed=2, search=_index_of(sqlite_engine), catalogue_seen=seen)
        assert service.live.take_published() is True
        assert late() == []
        assert find(client, "quokka")[0] == "red-05"


def test_a_replaced_picture_is_noticed_by_every_worker_and_after_a_restart(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    picture = tmp_path / "images" / "red-05.jpg"
    picture.parent.mkdir()
    picture.write_bytes(b"first")
    put_items(sqlite_engine, items())
    with sqlite_engine.begin() as connection:
        connection.execute(Item.__table__.update().values(updated_at=CUTOFF))  # long ago
    seen = CUTOFF + timedelta(hours=1)
    publish(sqlite_engine, tmp_path, search=_index_of(sqlite_engine, tmp_path), catalogue_seen=seen)
    settings = settings_for(sqlite_engine, images=str(tmp_path))

    def late(service: Service) -> list[str]:
        service.newcomers.flush()
        live = service.live.current
        assert live is not None
        return list(live.late)

    body = {name: value for name, value in items()[ITEM_IDS.index("red-05")].items() if name != "item_id"}
    body["created_at"] = body["created_at"].isoformat()
    with serve(sqlite_engine, settings) as (client, service), serve(sqlite_engine, settings) as (_, other):
        assert client.put("/v1/items/red-05", json=body).status_code == 200
        assert late(service) == []
        with sqlite_engine.begin() as connection:
            connection.execute(Item.__table__.update().values(updated_at=CUTOFF))
        picture.write_bytes(b"other")  # in the same place, as long as the first
        assert client.put("/v1/items/red-05", json=body).status_code == 200
        assert late(service) == ["red-05"]
        other.live.poll()
        assert late(other) == ["red-05"]
    with serve(sqlite_engine, settings) as (_, again):
        assert late(again) == ["red-05"]


def _index_of(engine: Engine, images: Path = Path("nowhere")) -> SearchIndex:
    """What a night would note of the catalogue as it is now."""
    found = {item.item_id: item for _, item in load_catalogue_items(engine, ITEM_IDS, CUTOFF)}
    known = [found[item_id] for item_id in ITEM_IDS]
    return SearchIndex(
        words=build_words(item.title for item in known),
        reviews=build_words([None] * len(known)),
        parts={},
        content=np.array([content_keys(item.text, item.picture(images)) for item in known], np.uint64),
        codes={name: build_vocabulary([]) for name in CODES},
    )
