"""The catalogue as a shop changes it: deleted, patched, put in batches; answers obey at once."""

from fastapi.testclient import TestClient
from service_shop import ids

from service.deps import Service


def test_a_deleted_item_is_gone_from_the_next_answer_and_can_come_back(plain: tuple[TestClient, Service]) -> None:
    client, service = plain
    client.put("/v1/items/new-1", json={"title": "New"})
    service.newcomers.flush()
    everything = {"limit": 100, "placement": "product", "item_ids": ["red-00"]}

    def shown() -> set[str]:
        return set(ids(client.post("/v1/recommendations", json=everything).json()))

    assert {"new-1", "red-01"} <= shown()
    for item_id in ("new-1", "red-01"):
        assert client.delete(f"/v1/items/{item_id}").status_code == 204
        assert item_id not in shown()
        assert client.get(f"/v1/items/{item_id}").status_code == 404
        again = client.delete(f"/v1/items/{item_id}")
        assert (again.status_code, again.json()["type"]) == (404, "urn:recsys:problem:unknown-item")
    client.put("/v1/items/new-1", json={"title": "New again"})
    assert "new-1" in shown()
    assert "red-01" not in shown()


def test_a_patch_changes_what_it_names(plain: tuple[TestClient, Service]) -> None:
    client, _ = plain
    before = client.get("/v1/items/red-07").json()
    changed = client.patch("/v1/items/red-07", json={"price_cents": 5, "brand": None, "images": None}).json()
    assert (changed["price_cents"], changed["brand"], changed["images"]) == (5, None, [])
    for name in ("title", "category", "attributes", "in_stock", "created_at"):
        assert changed[name] == before[name]
    assert client.patch("/v1/items/red-07", json={}).json()["price_cents"] == 5
    assert client.patch("/v1/items/red-07", json={"in_stock": None}).status_code == 422
    assert client.patch("/v1/items/red-07", json={"colour": "red"}).status_code == 422
    assert client.patch("/v1/items/nothing", json={"price_cents": 5}).status_code == 404


def test_a_batch_is_stored_whole_or_not_at_all(plain: tuple[TestClient, Service]) -> None:
    client, service = plain
    batch = [{"id": "red-07", "title": "Red"}, {"id": "b-1", "title": "One"}, {"id": "b-2", "in_stock": False}]
    assert client.post("/v1/items:batch", json={"items": batch}).json() == {"created": 2, "changed": 1, "unchanged": 0}
    assert client.get("/v1/items/red-07").json()["created_at"] == "2026-01-08T00:00:00Z"  # left out, so it stays
    service.newcomers.flush()
    shown = set(ids(client.post("/v1/recommendations", json={"limit": 100}).json()))
    assert "b-1" in shown
    assert "b-2" not in shown
    for bad in ([], [{"id": "x"}, {"id": "x"}], [{"id": "y"}, {"id": ""}], [{"title": "z"}]):
        assert client.post("/v1/items:batch", json={"items": bad}).status_code == 422
    assert client.get("/v1/items/y").status_code == 404
