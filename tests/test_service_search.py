"""Search over HTTP with the real encoders: by words, by pictures of every kind, by both; filters; what breaks."""

import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from search_shop import picture, publish_searchable
from service_shop import ids, items, publish, serve, settings_for
from sqlalchemy import Engine, select

from recsys.artifacts import load_release
from recsys.data.store import put_items
from recsys.data.tables import Recommendation
from recsys.embedder import Embedder
from service.deps import Service

PROBLEM = "urn:recsys:problem:"


@pytest.fixture
def running(engine: Engine) -> Iterator[tuple[TestClient, Service]]:
    """On both databases."""
    yield from _serving(engine)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for all tests that change nothing."""
    from recsys.data.database import open_database, upgrade_database

    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('search') / 'shop.db'}")
    upgrade_database(engine)
    for client, _ in _serving(engine):
        yield client
    engine.dispose()


def _serving(engine: Engine) -> Iterator[tuple[TestClient, Service]]:
    put_items(engine, items())
    pictures = publish_searchable(engine)
    with serve(engine, settings_for(engine, images=str(pictures))) as (client, service):
        live = service.live.current
        assert live is not None
        assert live.release.embedder is not None
        assert live.release.embedder.wait(120)
        service.newcomers.flush()
        yield client, service


def find(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def find_like(client: TestClient, data: bytes, **fields: Any) -> Any:
    return client.post("/v1/search", files={"image": ("photo", data)}, data=fields)


def reds(answer: dict[str, Any]) -> int:
    return sum(item_id.startswith("red") for item_id in ids(answer))


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


# By pictures


def _bomb() -> bytes:
    """A PNG of a few hundred bytes that says it is 60,000 pixels wide and high."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 9_000))
        + chunk(b"IEND", b"")
    )


def _drawn(mode: str, form: str, **options: Any) -> bytes:
    """The red dress in another form."""
    image = Image.open(io.BytesIO(picture("red", form="PNG")))
    if mode == "I;16":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
    elif mode == "PA":
        image = image.convert("RGBA").quantize(32)
        options["transparency"] = 0
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _animated() -> bytes:
    frames = [Image.open(io.BytesIO(picture(colour, form="PNG"))) for colour in ("red", "blue", "blue")]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    return file.getvalue()


def _turned() -> bytes:
    """Stored upside down, with the EXIF note that says so."""
    image = Image.open(io.BytesIO(picture("red", form="PNG"))).rotate(180)
    exif = Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=95)
    return file.getvalue()


GOOD = {
    "jpeg": lambda: picture("red"),
    "png": lambda: picture("red", form="PNG"),
    "webp": lambda: picture("red", form="WEBP"),
    "animated gif": _animated,
    "cmyk jpeg": lambda: _drawn("CMYK", "JPEG"),
    "palette with transparency": lambda: _drawn("PA", "PNG"),
    "palette": lambda: _drawn("P", "PNG"),
    "with alpha": lambda: _drawn("RGBA", "PNG"),
    "turned by exif": _turned,
}


@pytest.mark.slow
@pytest.mark.parametrize("form", GOOD)
def test_a_picture_in_any_usual_form_finds_its_like(standing: TestClient, form: str) -> None:
    answer = find_like(standing, GOOD[form](), limit=6)
    assert answer.status_code == 200, answer.text
    assert answer.json()["fallback"] == "full"
    assert reds(answer.json()) >= 5


@pytest.mark.slow
def test_a_picture_stored_upside_down_is_seen_upright(standing: TestClient) -> None:
    upright = find_like(standing, picture("red", quality=95), limit=12).json()
    turned = find_like(standing, _turned(), limit=12).json()
    assert len(set(ids(upright)) & set(ids(turned))) >= 9


@pytest.mark.slow
def test_a_grey_picture_of_sixteen_bits_is_answered(standing: TestClient) -> None:
    assert len(find_like(standing, _drawn("I;16", "PNG"), limit=6).json()["items"]) == 6


BAD = {
    "decompression bomb": (_bomb, "expected at most 50000000 pixels"),
    "truncated": (lambda: picture("red")[:-300], "truncated or corrupt"),
    "truncated png": (lambda: picture("red", form="PNG")[:200], "truncated or corrupt"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected a JPEG, PNG, WebP or GIF"),
    "tiff": (lambda: _drawn("RGB", "TIFF"), "expected a JPEG, PNG, WebP or GIF"),
    "html": (lambda: b"<!doctype html><p>not here", "expected a JPEG, PNG, WebP or GIF"),
    "nothing": (lambda: b"", "expected a JPEG, PNG, WebP or GIF"),
    "only the head": (lambda: b"\xff\xd8\xff\xe0", "expected one of JPEG"),
    "zeros behind a head": (lambda: b"GIF89a" + bytes(100), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", BAD)
def test_what_is_no_picture_is_refused_with_the_reason(standing: TestClient, form: str) -> None:
    make, said = BAD[form]
    answer = find_like(standing, make())
    assert answer.status_code == 422, answer.text
    came = answer.json()
    assert came["type"] == PROBLEM + "unreadable-picture"
    assert said in came["detail"]
    assert came["errors"][0]["field"] == "image"


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused_before_it_is_read(sqlite_engine: Engine) -> None:
    put_items(sqlite_engine, items())
    settings = settings_for(sqlite_engine, max_picture_bytes=5_000)
    noise = b"\xff\xd8\xff" + bytes(6_000)
    with serve(sqlite_engine, settings) as (client, _):
        answer = find_like(client, noise)
        assert (answer.status_code, answer.json()["type"]) == (413, PROBLEM + "body-too-large")
        answer = find_like(client, noise + bytes(200_000))  # the declared length says it
        assert (answer.status_code, answer.json()["type"]) == (413, PROBLEM + "body-too-large")


@pytest.mark.slow
def test_words_and_a_picture_together(standing: TestClient) -> None:
    both = find_like(
        standing,
        picture("blue"),
        text="blue dress",
        limit=5,
        filter=json.dumps({"price_to_cents": 1010}),
        explain="true",
    )
    assert both.status_code == 200, both.text
    assert reds(both.json()) == 0
    assert all(int(item_id[-2:]) <= 10 for item_id in ids(both.json()))
    assert "and the picture" in both.json()["items"][0]["reasons"][0]["text"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limit": "many"}, "limit"),
        ({"filter": "category=Dresses"}, "filter"),
        ({"explain": "yes"}, "explain"),
        ({"colour": "red"}, "colour"),
        ({"text": ["a", "b"]}, "text"),
    ],
)
def test_a_forms_fields_are_checked_as_in_json(standing: TestClient, fields: dict[str, Any], field: str) -> None:
    answer = find_like(standing, picture("red"), **fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.slow
def test_a_form_whose_image_is_no_file_or_comes_twice_is_refused(standing: TestClient) -> None:
    for files in ([("image", (None, "text"))], [("photo", ("a", picture("red")))], [("image", ("a", b"x"))] * 2):
        answer = standing.post("/v1/search", files=files)
        assert answer.status_code in (400, 422), answer.text
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
