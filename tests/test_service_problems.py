"""What a caller sends that is not as expected: every answer is a problem that names it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_shop import problem, serve, settings_for
from sqlalchemy import Engine


@pytest.fixture
def sqlite_client(sqlite_shop: Engine) -> Iterator[TestClient]:
    with serve(sqlite_shop) as (client, _):
        yield client


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
        ("created_at", "2999-01-01T00:00:00Z"),
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
