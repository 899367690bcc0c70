"""Whatever a caller sends, the answer is an answer or a problem that is the caller's: never a 500."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_shop import publish_searchable
from service_shop import items, publish, serve
from sqlalchemy import Engine

from recsys.data.store import put_items

# Text with NUL, half surrogate pairs and everything else; numbers that no column holds.
TEXT = st.text(st.characters(exclude_categories=()), max_size=20) | st.sampled_from(
    ["red-01", "u1", "\x00", "\ud800", ""]
)
NUMBER = st.integers(-(2**70), 2**70) | st.floats() | st.sampled_from([0, 1, 5, -1, 2**31, 2**63])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(TEXT, children, max_size=3),
    max_leaves=6,
)
TIME = st.datetimes().map(lambda time: time.isoformat() + "Z") | JSON
TYPE = st.sampled_from(["purchase", "search", "rating", "impression"]) | JSON


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with any of these fields."""
    return st.fixed_dictionaries({}, optional=known)


IDS = st.lists(TEXT, max_size=3) | JSON
EVENT = st.fixed_dictionaries(
    {"event_id": TEXT, "event_type": TYPE, "user_id": TEXT},
    optional={
        "item_id": TEXT,
        "session_id": JSON,
        "value": NUMBER,
        "quantity": NUMBER,
        "position": NUMBER,
        "timestamp": TIME,
        "properties": st.dictionaries(TEXT, JSON, max_size=3),
    },
)
CALLS = st.one_of(
    st.tuples(
        st.just("/v1/recommendations"),
        fields(
            placement=st.sampled_from(["home", "product", "cart"]) | JSON,
            user_id=TEXT,
            session_id=TEXT,
            item_ids=IDS,
            exclude_item_ids=IDS,
            limit=NUMBER,
            exclude_purchased=st.booleans() | JSON,
            explain=st.booleans(),
            return_items=st.booleans(),
        ),
    ),
    st.tuples(
        st.just("/v1/items:similar"),
        fields(item_id=TEXT, limit=NUMBER, weights=fields(image=NUMBER, text=NUMBER, behaviour=NUMBER) | JSON),
    ),
    st.tuples(
        st.just("/v1/search"),
        fields(
            text=st.sampled_from(["red dress", "red-07 alba", "x" * 501]) | JSON,
            limit=NUMBER,
            filter=fields(
                category=st.sampled_from(["Dresses", "Dresses > Red", ">"]) | JSON,
                brand=IDS,
                price_from_cents=NUMBER,
                price_to_cents=NUMBER,
                in_stock=st.booleans() | JSON,
            )
            | JSON,
            user_id=TEXT,
            explain=st.booleans() | JSON,
            return_items=st.booleans(),
        ),
    ),
    st.tuples(st.just("/v1/items:batch"), fields(items=st.lists(fields(id=TEXT, title=TEXT) | JSON, max_size=3))),
    st.tuples(st.just("/v1/events"), fields(events=st.lists(EVENT | JSON, max_size=4))),
    st.tuples(
        st.sampled_from(["PUT /v1/items/", "PATCH /v1/items/", "DELETE /v1/items/"]),
        fields(
            title=TEXT,
            price_cents=NUMBER,
            in_stock=st.booleans() | JSON,
            attributes=st.dictionaries(TEXT, TEXT | IDS, max_size=3) | JSON,
            images=IDS,
            created_at=TIME,
        ),
    ),
)


@pytest.mark.slow
def test_no_input_breaks_the_service(engine: Engine, tmp_path: Path) -> None:
    put_items(engine, items())
    publish(engine, tmp_path)

    with serve(engine) as (client, service):

        @settings(max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(call=CALLS, item_id=st.text(min_size=1, max_size=10))
        def ask(call: tuple[str, Any], item_id: str) -> None:
            path, body = call
            method, _, path = path.rpartition(" ")
            method = method or "POST"
            if path == "/v1/items/":
                # As a browser escapes it: each byte of its UTF-8.
                path += "".join(f"%{byte:02x}" for byte in item_id.encode())
            answer = client.request(
                method, path, content=json.dumps(body), headers={"content-type": "application/json"}
            )
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["detail"]
            elif path == "/v1/events":
                came = answer.json()
                assert came["accepted"] + came["duplicates"] + len(came["rejected"]) == len(body["events"])

        ask()
        service.newcomers.flush()
        assert service.metrics.registry.get_sample_value("recsys_late_items_total", {"outcome": "failed"}) == 0
        service.slate_log.flush()
        value = service.metrics.registry.get_sample_value
        assert value("recsys_slates_total", {"outcome": "written"}) > 0
        assert value("recsys_slates_total", {"outcome": "dropped"}) == 0
        assert (
            sum(
                value("recsys_broken_parts_total", {"part": part})
                for part in ("history", "recommend", "similar", "search", "items", "purchases")
            )
            == 0
        )


PART = st.tuples(
    st.sampled_from(["image", "text", "limit", "filter", "explain", "other"]),
    st.binary(max_size=300)
    | st.sampled_from([b"red", b"5", b"{}", b"true", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a"]),
    st.booleans(),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Starlette's, of a part that never ends
def test_no_form_breaks_search(sqlite_engine: Engine) -> None:
    put_items(sqlite_engine, items())
    publish_searchable(sqlite_engine)
    with serve(sqlite_engine) as (client, service):
        live = service.live.current
        assert live is not None
        assert live.release.embedder is not None
        assert live.release.embedder.wait(120)

        @settings(max_examples=120, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(parts=st.lists(PART, max_size=4), rubbish=st.binary(max_size=60))
        def ask(parts: list[tuple[str, bytes, bool]], rubbish: bytes) -> None:
            body = b"".join(
                b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
                % (name.encode(), b'; filename="f"' if is_file else b"", value)
                for name, value, is_file in parts
            )
            for ending in (b"--b--\r\n", rubbish):
                answer = client.post(
                    "/v1/search",
                    content=body + ending,
                    headers={"content-type": "multipart/form-data; boundary=b"},
                )
                assert answer.status_code < 500, answer.text
                if answer.status_code >= 400:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["detail"]

        ask()
        assert service.metrics.registry.get_sample_value("recsys_broken_parts_total", {"part": "search"}) == 0
