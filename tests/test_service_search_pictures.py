"""Search over HTTP by pictures of every kind, and what is none, alone and with words."""

import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from search_shop import find_like, picture, reds, standing_client
from service_shop import ids, items, serve, settings_for
from sqlalchemy import Engine

from recsys.data.store import put_items

PROBLEM = "urn:recsys:problem:"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One service for all tests that change nothing."""
    with standing_client(tmp_path_factory) as client:
        yield client


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
