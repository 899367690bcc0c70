"""API keys: who needs one, what it opens, and how it is kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_shop import items, serve, settings_for
from sqlalchemy import Engine, select

from pipelines.cli import main
from recsys.data.store import put_items
from recsys.data.tables import ApiKey
from recsys.errors import ConfigError
from service.deps import Service
from service.keys import KeyRing, create_api_key, hash_of, id_of, list_api_keys, revoke_api_key
from service.settings import Settings

RECOMMEND = ("POST", "/v1/recommendations", {})
SIMILAR = ("POST", "/v1/items:similar", {"item_id": "red-01"})
EVENTS = ("POST", "/v1/events", {"events": []})
PUT = ("PUT", "/v1/items/red-01", {"title": "Red"})
GET = ("GET", "/v1/items/red-01", None)


@pytest.fixture
def running(engine: Engine) -> Iterator[tuple[TestClient, Service]]:
    put_items(engine, items())
    with serve(engine, settings_for(engine, require_api_key=True)) as started:
        yield started


def status(client: TestClient, call: tuple, key: str | None = None) -> int:
    method, path, body = call
    answer = client.request(method, path, json=body, headers={} if key is None else {"X-API-Key": key})
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code


def test_each_scope_opens_its_calls_and_admin_all(running: tuple[TestClient, Service], engine: Engine) -> None:
    client, service = running
    keys = {scope: create_api_key(engine, scope, [scope]) for scope in ("read", "write", "admin")}
    service.keys.refresh()
    for call in (RECOMMEND, SIMILAR, GET):
        opened = {scope: status(client, call, key) for scope, key in keys.items()}
        assert opened == {"read": 200, "write": 403, "admin": 200}
    for call in (EVENTS, PUT):
        opened = {scope: status(client, call, key) for scope, key in keys.items()}
        assert opened == {"read": 403, "write": 200, "admin": 200}
    both = create_api_key(engine, "storefront", ["write", "read"])
    service.keys.refresh()
    assert {status(client, call, both) for call in (RECOMMEND, SIMILAR, GET, EVENTS, PUT)} == {200}


def test_without_a_good_key_nothing_opens_but_the_probes(running: tuple[TestClient, Service], engine: Engine) -> None:
    client, service = running
    key = create_api_key(engine, "storefront", ["admin"])
    service.keys.refresh()
    for wrong in (None, "", "rk_wrong", key[:-1], key + "x", hash_of(key), "é"):
        headers = {} if wrong is None else {"X-API-Key": wrong.encode()}
        answer = client.post("/v1/recommendations", json={}, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "ApiKey"
        assert "X-API-Key" in answer.json()["detail"]
    for path in ("/health/live", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_a_revoked_key_opens_nothing_more(running: tuple[TestClient, Service], engine: Engine) -> None:
    client, service = running
    key = create_api_key(engine, "storefront", ["read"])
    service.keys.refresh()
    assert status(client, RECOMMEND, key) == 200
    other = create_api_key(engine, "storefront", ["read"])
    first = revoke_api_key(engine, key)
    assert revoke_api_key(engine, id_of(first)).revoked_at == first.revoked_at  # once revoked, that is the time
    service.keys.refresh()
    assert (status(client, RECOMMEND, key), status(client, RECOMMEND, other)) == (401, 200)


def test_only_the_hash_is_kept(engine: Engine) -> None:
    key = create_api_key(engine, "storefront", ["read", "write"])
    with engine.connect() as connection:
        row = connection.execute(select(ApiKey.__table__)).one()
    assert row.key_hash == hash_of(key)
    assert key not in str(row)
    assert (row.name, row.scopes, row.revoked_at) == ("storefront", ["read", "write"], None)
    assert create_api_key(engine, "storefront", ["read"]) != key


def test_the_command_makes_a_key_that_opens(sqlite_engine: Engine, tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "nightly.toml"
    config.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    assert main(["create-key", "storefront", "--scope", "read", "--config", str(config)]) == 0
    key = capsys.readouterr().out.strip()
    ring = KeyRing(sqlite_engine)
    ring.refresh()
    assert ring.scopes_of(key) == {"read"}
    assert ring.scopes_of(key + "x") is None


def test_the_commands_list_and_revoke(sqlite_engine: Engine, tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "nightly.toml"
    config.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    assert main(["keys", "--config", str(config)]) == 0
    assert "recsys create-key makes one" in capsys.readouterr().out
    made = [create_api_key(sqlite_engine, "shop", ["read", "write"]), create_api_key(sqlite_engine, "feed", ["admin"])]
    shop, feed = (hash_of(key)[:12] for key in made)
    assert main(["revoke-key", shop, "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith(f"{shop} (shop) is revoked since 20")
    assert main(["keys", "--config", str(config)]) == 0
    said = capsys.readouterr().out
    header, first, second = said.splitlines()
    assert first.split()[:4] == [shop, "shop", "read", "write"]
    assert second.split()[:3] == [feed, "feed", "admin"]
    made_at, revoked_at = header.index("made"), header.index("revoked")
    assert first[made_at : made_at + 2] == second[made_at : made_at + 2] == first[revoked_at : revoked_at + 2] == "20"
    assert second[revoked_at:] == ""
    assert not any(key in said for key in made)
    assert KeyRing(sqlite_engine).scopes_of(made[0]) is None


def test_a_key_that_there_is_not_cannot_be_revoked(sqlite_engine: Engine, tmp_path: Path, capsys: Any) -> None:
    config = tmp_path / "nightly.toml"
    config.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    assert main(["revoke-key", "0123456789ab", "--config", str(config)]) == 2
    assert "there is none yet, came '0123456789ab'" in capsys.readouterr().err
    known = hash_of(create_api_key(sqlite_engine, "shop", ["read"]))
    for wrong in ("", "rk_wrong", known[:11], known[:13]):
        assert main(["revoke-key", wrong, "--config", str(config)]) == 2
        said = capsys.readouterr().err
        assert f"one of {known[:12]}, came" in said
        assert "rk_wrong" not in said
    assert list_api_keys(sqlite_engine)[0].revoked_at is None


@pytest.mark.parametrize("scopes", [[], ["read", "delete"]])
def test_unknown_scopes_are_refused(sqlite_engine: Engine, scopes: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected some of"):
        create_api_key(sqlite_engine, "storefront", scopes)


@pytest.mark.parametrize(
    ("host", "require", "asks"),
    [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),
        ("10.0.0.7", None, True),
        ("shop.example", None, True),
        ("0.0.0.0", False, False),
        ("127.0.0.1", True, True),
    ],
)
def test_keys_are_asked_for_wherever_others_can_reach_the_service(host: str, require: bool | None, asks: bool) -> None:
    assert Settings(host=host, require_api_key=require).asks_for_keys is asks
