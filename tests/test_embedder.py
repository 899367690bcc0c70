"""What comes after the night is embedded as the night would have done it."""

import numpy as np
import pytest
from search_shop import SAID, picture, searchable
from service_shop import CUTOFF, ITEM_IDS, items

from recsys.artifacts import load_release
from recsys.data.load import attribute_tokens
from recsys.embedder import Content, Embedder, Review
from recsys.encoders.text import item_text
from recsys.errors import EncoderError, UnreadableImage


@pytest.fixture(scope="module")
def release():
    folder, _, version = searchable()
    return load_release(folder / version)


def content_of(item_id, reviews=()):
    item = next(item for item in items() if item["item_id"] == item_id)
    text = item_text(item["title"], None, item["category"], item["brand"], attribute_tokens(item["attributes"]))
    return Content(text, searchable()[1] / item["images"][0], reviews)


@pytest.mark.slow
def test_an_item_of_the_night_gets_the_same_vectors_again(release):
    age = (CUTOFF - CUTOFF.replace(day=1, month=2)).days
    asked = {"red-05": [Review(SAID, 4.0, 1, age)], "blue-17": (), "red-20": ()}
    made = release.embedder.embed_items([content_of(item_id, reviews) for item_id, reviews in asked.items()])
    rows = [ITEM_IDS.index(item_id) for item_id in asked]
    np.testing.assert_allclose(made.fused, release.tables.spaces["fused"][rows], atol=5e-3)
    for name in ("image", "text"):
        np.testing.assert_allclose(made.spaces[name], release.tables.spaces[name][rows], atol=1e-2)
    for name, part in made.parts.items():
        np.testing.assert_allclose(part, release.search.parts[name][rows], atol=1e-2)
    assert np.abs(sum(part.astype(np.float32) for part in made.parts.values()) - made.fused).max() < 5e-3


@pytest.mark.slow
def test_an_item_with_nothing_has_no_vector_and_a_bad_picture_is_named(release, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"rubbish")
    made = release.embedder.embed_items([Content(), Content("A hat.", bad), Content("A hat.")])
    assert not made.fused[0].any()
    np.testing.assert_allclose(made.fused[1], made.fused[2], atol=1e-3)
    assert list(made.failures) == [1]
    assert not release.embedder.embed_items([Content()]).fused.any()


@pytest.mark.slow
def test_queries_by_words_by_picture_and_by_both(release):
    by_words = release.embedder.embed_query("a red dress", None)
    by_picture = release.embedder.embed_query(None, picture("red"))
    both = release.embedder.embed_query("a red dress", picture("red"))
    for vector in (by_words, by_picture, both):
        assert vector.shape == (16,)
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert min(both @ by_words, both @ by_picture) > by_words @ by_picture - 1e-3
    with pytest.raises(UnreadableImage):
        release.embedder.embed_query(None, b"rubbish")
    with pytest.raises(EncoderError, match="expected a release that knows"):
        release.embedder.embed_query(None, None)


def test_encoders_that_failed_are_not_tried_again_at_once(tmp_path, monkeypatch):
    embedder = Embedder(tmp_path, {"text_encoder": {"model": "/nowhere"}})
    opened = []
    monkeypatch.setattr(Embedder, "_open", lambda self: opened.append(1) or 1 / 0)
    for kind in (ZeroDivisionError, EncoderError, EncoderError):
        with pytest.raises(kind):
            embedder.embed_query("red", None)
    assert len(opened) == 1
    with pytest.raises(EncoderError, match="not tried again yet"):
        embedder.embed_items([Content("red")])
