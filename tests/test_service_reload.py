"""A newly published release takes over without a failed request; a broken one does not."""

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from service_shop import build_release, items, publish, serve, settings_for
from sqlalchemy import Engine

from recsys.artifacts import load_release
from recsys.data.releases import publish_release
from recsys.data.store import put_item, put_items


@pytest.fixture
def shop(sqlite_engine: Engine) -> Engine:
    put_items(sqlite_engine, items())
    return sqlite_engine


def ask(client: Any) -> dict[str, Any]:
    answer = client.post("/v1/recommendations", json={"session_id": "s1"})
    assert answer.status_code == 200
    return answer.json()


def test_a_published_release_takes_over_and_can_be_taken_back(shop: Engine, tmp_path: Path) -> None:
    first = publish(shop, tmp_path, seed=0)
    with serve(shop) as (client, service):
        assert ask(client)["release"] == first
        assert service.live.take_published() is False
        second = publish(shop, tmp_path, seed=1)
        assert second != first
        assert ask(client)["release"] == first
        assert service.live.take_published() is True
        assert ask(client)["release"] == second
        publish_release(shop, first)
        assert service.live.take_published() is True
        assert ask(client)["release"] == first


def test_no_request_fails_or_waits_while_a_release_loads(shop: Engine, tmp_path: Path) -> None:
    first = publish(shop, tmp_path, seed=0)
    asked, answered_meanwhile = threading.Event(), threading.Event()
    loads = []

    def load_and_wait(path: str) -> Any:
        loads.append(path)
        if len(loads) == 2:  # the new release loads for as long as it takes three requests to be answered
            asked.set()
            assert answered_meanwhile.wait(30)
        return load_release(path)

    with serve(shop, load_release=load_and_wait) as (client, service):
        second = publish(shop, tmp_path, seed=1)
        refreshing = threading.Thread(target=service.live.take_published)
        refreshing.start()
        assert asked.wait(30)
        assert [ask(client)["release"] for _ in range(3)] == [first] * 3
        answered_meanwhile.set()
        seen = {ask(client)["release"] for _ in range(20)}
        refreshing.join(30)
        assert seen <= {first, second}
        assert ask(client)["release"] == second


def test_the_catalogue_is_watched_while_a_release_embeds_its_late_items(
    shop: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(shop, tmp_path, seed=0)
    embedding, noticed, done = threading.Event(), threading.Event(), threading.Event()

    def make_slowly(*arguments: Any) -> list[Any]:
        embedding.set()
        assert done.wait(60)
        return []

    def notice(item_ids: Any) -> None:
        if "new-1" in item_ids:
            noticed.set()

    with serve(shop, settings_for(shop, reload_seconds=0.01)) as (_, service):
        monkeypatch.setattr(service.live, "make_late", make_slowly)
        monkeypatch.setattr(service.live, "offer", notice)
        publish(shop, tmp_path, seed=1)
        assert embedding.wait(30)
        put_item(shop, "new-1", {"title": "Put while another release embeds"})
        seen = noticed.wait(20)
        done.set()
        assert seen


def test_stock_that_changes_while_a_release_loads_counts(shop: Engine, tmp_path: Path) -> None:
    publish(shop, tmp_path, seed=0)

    def load_slowly(path: str) -> Any:
        release = load_release(path)
        put_item(shop, "red-05", {"title": "Sold out while loading", "in_stock": False})
        return release

    with serve(shop, load_release=load_slowly) as (_, service):
        live = service.live.current
        assert live is not None
        assert not live.available[live.release.row_of("red-05")]
        assert live.available.sum() == len(items()) - 1


def test_an_altered_release_is_refused_and_the_old_one_stays(shop: Engine, tmp_path: Path) -> None:
    first = publish(shop, tmp_path, seed=0)
    with serve(shop) as (client, service):
        second = publish(shop, tmp_path, seed=1)
        with (tmp_path / second / "features" / "trending.npy").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\xff\xff\xff\xff")
        assert service.live.take_published() is False
        assert ask(client)["release"] == first
        assert client.get("/health/ready").json()["release"] == first
        refused = service.metrics.registry.get_sample_value("recsys_release_loads_total", {"outcome": "refused"})
        assert refused == 1
        # Not tried again at once: reading a large broken release every few seconds helps nobody.
        service.live.take_published()
        assert service.metrics.registry.get_sample_value("recsys_release_loads_total", {"outcome": "refused"}) == 1


def test_a_service_whose_only_release_is_gone_says_so_and_answers(shop: Engine, tmp_path: Path) -> None:
    version = publish(shop, tmp_path, seed=0)
    shutil.rmtree(tmp_path / version)
    with serve(shop) as (client, _):
        answer = client.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:recsys:problem:release-refused"
        assert f"release {version} was refused" in answer.json()["detail"]
        assert ask(client)["fallback"] == "newest"


def test_the_watcher_looks_by_itself(shop: Engine, tmp_path: Path) -> None:
    publish(shop, tmp_path, seed=0)
    looked = threading.Event()
    second = build_release(tmp_path, seed=1).manifest.version

    def note(path: str) -> Any:
        if path.endswith(second):
            looked.set()
        return load_release(path)

    with serve(shop, settings_for(shop, reload_seconds=0.01), load_release=note):
        publish(shop, tmp_path, seed=1)
        assert looked.wait(30)
