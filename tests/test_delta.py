"""Items after the night: the extended release answers like one that knew them, and the rest of it stays as it was."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from recsys.artifacts import load_release, save_release
from recsys.delta import Stacked, extend
from recsys.late import CatalogueItem, is_news, make_late_items
from recsys.ranking.features import ITEM_FEATURES
from recsys.recommend import recommend
from recsys.request import Interaction, Request
from recsys.search import Query, search
from recsys.search_index import SearchIndex, content_keys
from recsys.words import build_vocabulary, build_words
from tests.builders import CUTOFF, EXACT, LISTS, build_release, build_shop, mixed_requests, recipe


def searchable(release, shop):
    """``release`` with the words of its titles, and its embeddings split in two."""
    fused = release.tables.spaces["fused"]
    catalogue = shop.catalogue
    parts = {"image": (0.75 * fused).astype(np.float16), "text": (0.25 * fused).astype(np.float16)}
    keys = [content_keys(title + ".", None) for title in release.titles]
    names = {
        "category": build_vocabulary(f"Things > {taste}" for taste in ("red", "blue", "green", "gold")),
        "brand": build_vocabulary(f"brand {n}" for n in range(3)),
        "family": build_vocabulary([]),
        "attributes": build_vocabulary([]),
    }
    assert len(catalogue) == len(release.titles)
    search_index = SearchIndex(
        build_words(release.titles), build_words([None] * len(fused)), parts, np.array(keys, np.uint64), names
    )
    return replace(release, search=search_index)


class Planted:
    """An embedder whose vectors a test chose: by the item's text."""

    def __init__(self, vectors):
        self.vectors = vectors

    def embed_query(self, text, picture):
        return self.vectors[text]

    def embed_items(self, contents):
        from recsys.embedder import Embedded

        fused = np.stack([self.vectors[content.text] for content in contents]).astype(np.float32)
        return Embedded(
            fused, parts={"image": (0.5 * fused).astype(np.float16), "text": (0.5 * fused).astype(np.float16)}
        )


def item(item_id, title, **more):
    unknown = dict.fromkeys(("description", "category", "brand", "family", "price_cents"))
    return CatalogueItem(
        **{"item_id": item_id, "title": title, "in_stock": True, "attributes": [], "images": [], "created_at": CUTOFF}
        | unknown
        | more
    )


@pytest.fixture(scope="module", params=[EXACT, LISTS], ids=["flat", "ivf"])
def night(request, tmp_path_factory):
    shop, vectors = build_shop()
    folder = tmp_path_factory.mktemp("night")
    made = searchable(build_release(shop, vectors, recipe(request.param)), shop)
    return load_release(folder / save_release(made, folder).manifest.version)


def red_of(release):
    rows = [row for row, item_id in enumerate(release.item_ids) if item_id.startswith("red")]
    mean = np.asarray(release.tables.spaces["fused"][rows], np.float32).sum(axis=0)
    return mean / np.linalg.norm(mean)


def late_items(release, *items, vectors=None):
    known = replace(release, embedder=Planted(vectors or {}))
    return make_late_items(known, items, images_root=None, now=CUTOFF + timedelta(hours=1))


def test_a_stacked_array_reads_like_the_array_it_stands_for():
    rng = np.random.default_rng(0)
    base, late = rng.normal(size=(7, 3)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    place = np.full(9, -1, np.int32)
    place[[2, 7, 8]] = [0, 1, 2]
    whole = np.concatenate([base, late[1:]])
    whole[2] = late[0]
    stacked = Stacked(base, place, late)
    assert stacked.shape == whole.shape
    assert len(stacked) == 9
    for key in (
        3, 2, 8, np.int32(7), [0, 1], [2, 8, 0], np.array([[0, 2], [8, 1]]), slice(1, 9, 3), slice(None), [],
        (2, 1), (0, 1), ([8, 2, 1], 1), (8, np.array([0, 2])), whole[:, 0] > 0,
    ):  # fmt: skip
        wanted = np.array(key, int) if isinstance(key, list) and not key else key
        np.testing.assert_array_equal(stacked[wanted], whole[wanted])
    np.testing.assert_array_equal(stacked[:, 1][[8, 2, 0]], whole[[8, 2, 0], 1])
    np.testing.assert_array_equal(np.asarray(stacked), whole)


def test_without_late_items_the_release_is_the_night_itself(night):
    assert extend(night, []) is night


def test_answers_about_the_night_stay_what_they_were(night):
    """A new item that nobody may see changes no slate, feature or score of the others."""
    vector = {"Far.": -red_of(night)}
    with_late = extend(night, late_items(night, item("late", "Far", created_at=None), vectors=vector))
    requests = mixed_requests(night.item_ids, 60, seed=1)
    available = np.append(night.in_stock, False)
    before, after = recommend(night, requests), recommend(with_late, requests, available=available)
    same = 0
    for one, other in zip(before, after):
        # The late one may stand among the candidates, and so move ranks; who is shown is what counts.
        assert "late" not in {shown.item_id for shown in other.items}
        same += [shown.item_id for shown in one.items] == [shown.item_id for shown in other.items]
    assert same >= 55


def test_a_new_item_is_recommended_to_those_whom_it_suits(night):
    late = late_items(night, item("late", "Late", created_at=None), vectors={"Late.": red_of(night)})
    release = extend(night, late)
    assert release.row_of("late") == len(night.item_ids)
    assert night.row_of("late") is None
    history = [Interaction(f"red-{n:03}", "detail-page-view", CUTOFF - timedelta(hours=n + 1)) for n in range(5, 11)]
    ask = Request(requested_at=CUTOFF + timedelta(hours=1), history=history[::-1], limit=40, explain=True)
    (slate,) = recommend(release, [ask])
    shown = {item.item_id: item for item in slate.items}
    assert "late" in shown
    assert shown["late"].reasons[0].source in ("taste", "content")
    shares = shown["late"].reasons[0].shares
    assert not shares or sum(shares.values()) == pytest.approx(1, abs=1e-3)  # none where nothing spoke for it
    # And a page of it is answered: its likeness is known, nobody has bought it.
    (page,) = recommend(release, [Request(requested_at=CUTOFF, placement="product", item_ids=["late"], limit=20)])
    assert page.fallback in ("full", "without_ranker")
    assert sum(item.item_id.startswith("red") for item in page.items) >= 3
    assert {item_id[:3] for item_id, _ in release.similar(["late"], 5)} == {"red"}


def test_likeness_goes_both_ways(night):
    late = late_items(night, item("late", "Late"), vectors={"Late.": red_of(night)})
    release = extend(night, late)
    content, before = release.retrieval.tables["content"], night.retrieval.tables["content"]
    row = release.row_of("late")
    rows, likeness = late[0].neighbours
    width = before.neighbours.shape[1]
    np.testing.assert_array_equal(content.neighbours[row], rows[:width])
    nearest = int(rows[0])
    assert content.neighbours[nearest][content.weights[nearest] == likeness[0]] == [row]
    assert (np.diff(content.weights[nearest]) <= 0).all()
    others = set(content.neighbours[nearest].tolist()) - {row}
    assert others <= set(before.neighbours[nearest].tolist())
    far = night.row_of("blue-010")
    np.testing.assert_array_equal(content.neighbours[far], before.neighbours[far])


def test_the_newest_arrival_is_new(night):
    release = extend(
        night, late_items(night, item("late", None), item("older", None, created_at=CUTOFF - timedelta(days=45)))
    )
    ids = [release.item_ids[row] for row in release.retrieval.newest]
    assert ids[0] == "late"
    arrivals = [release.tables.created_at_days[row] for row in release.retrieval.newest]
    assert arrivals == sorted(arrivals, reverse=True)
    (slate,) = recommend(release, [Request(requested_at=CUTOFF + timedelta(hours=1), limit=100)])
    assert {"late", "older"} <= {shown.item_id for shown in slate.items}


def test_a_changed_item_moves_and_keeps_what_behaviour_says(night):
    row = night.row_of("blue-008")
    late = late_items(night, item("blue-008", "Red now", price_cents=7), vectors={"Red now.": red_of(night)})
    release = extend(night, late)
    assert len(release.item_ids) == len(night.item_ids)
    assert release.row_of("blue-008") == row
    assert release.titles[row] == "Red now"
    for name in ("transitions", "copurchase"):
        before, after = night.retrieval.tables[name], release.retrieval.tables[name]
        np.testing.assert_array_equal(after.neighbours[row], before.neighbours[row])
    assert release.tables.items[row, ITEM_FEATURES.index("price_cents")] == 7
    found, scores = release.retrieval.index.search(red_of(night)[None], 5)
    assert found[0][0] == row
    assert scores[0][0] == pytest.approx(1, abs=1e-4)
    blues = np.asarray(night.tables.spaces["fused"][row], np.float32)
    assert row not in release.retrieval.index.search(blues[None], 5)[0][0]  # its old vector finds it no more


def test_the_index_answers_alike_alone_and_in_a_batch_and_obeys_what_is_allowed(night):
    vectors = {"A.": red_of(night), "B.": -red_of(night)}
    release = extend(night, late_items(night, item("a", "A"), item("b", "B"), vectors=vectors))
    queries = np.stack([red_of(night), -red_of(night), np.asarray(night.tables.spaces["fused"][0], np.float32)])
    together = release.retrieval.index.search(queries, 9)
    for number in range(3):
        alone = release.retrieval.index.search(queries[number : number + 1], 9)
        np.testing.assert_array_equal(alone[0][0], together[0][number])
        np.testing.assert_array_equal(alone[1][0], together[1][number])
    allowed = np.zeros(len(release.item_ids), bool)
    allowed[[3, release.row_of("b")]] = True
    rows, _ = release.retrieval.index.search(queries[:1], 4, allowed)
    assert set(rows[0].tolist()) <= {3, release.row_of("b"), -1}
    assert release.row_of("b") in rows[0]


def test_search_finds_what_came_late_by_word_and_by_meaning(night):
    vectors = {"Quokka gown.": red_of(night), "quokka": -red_of(night), "something": red_of(night)}
    release = extend(night, late_items(night, item("late-77", "Quokka gown"), vectors=vectors))
    release = replace(release, embedder=Planted(vectors))
    for words in ("quokka", "late-77"):
        slate = search(release, Query(words, explain=True), embed=False)
        assert [item.item_id for item in slate.items] == ["late-77"] * (words == "quokka") or slate.items[
            0
        ].item_id == "late-77"
        assert slate.fallback == "without_encoder"
    assert search(release, Query("quokka")).items[0].item_id == "late-77"  # although its meaning points elsewhere
    assert search(release, Query("something", limit=3)).items[0].item_id == "late-77"


def test_news_are_what_is_unknown_or_reads_otherwise(night):
    assert is_news(night, item("never", "x"), None)
    title = night.titles[night.row_of("red-005")]
    assert not is_news(night, item("red-005", title), None)
    assert not is_news(night, item("red-005", title, price_cents=5, in_stock=False), None)
    assert is_news(night, item("red-005", title + " new"), None)
    assert is_news(night, item("red-005", title, category="Hats"), None)
    assert not is_news(replace(night, search=None), item("red-005", "anything"), None)  # it cannot tell


def test_a_picture_is_told_by_its_bytes_where_it_is_at_hand(tmp_path, night):
    file = tmp_path / "a.png"
    assert content_keys("text", file)[1] == 0  # not there: nobody can tell
    file.write_bytes(b"12")
    first = content_keys("text", file)
    copy = tmp_path / "b.png"
    copy.write_bytes(b"12")
    assert content_keys("text", copy) == first  # whatever its name and its time
    file.write_bytes(b"34")  # as long as before
    assert len({first, content_keys("text", file), content_keys("other", file), content_keys("text", None)}) == 4
    assert content_keys(None, None) == content_keys("", None)
    title = night.titles[night.row_of("red-005")]
    assert is_news(night, item("red-005", title, images=["a.png"]), tmp_path)
    assert not is_news(night, item("red-005", title, images=["nowhere.png"]), tmp_path)
    # An address is no picture.
    linked = item("red-005", title, images=["https://shop.example/a.png"])
    assert not is_news(night, linked, tmp_path)
    keys = night.search.content.copy()
    keys[night.row_of("red-005")] = content_keys(linked.text, file)
    assert is_news(replace(night, search=replace(night.search, content=keys)), linked, tmp_path)


def test_broken_encoders_leave_items_that_words_find(night, caplog):
    class Broken:
        def embed_items(self, contents):
            raise RuntimeError("no weights")

    n_items = len(night.item_ids)
    parts = {"text": np.ones((n_items, night.manifest.dim), np.float16)}
    known = replace(night.search, hubs={"text": np.arange(n_items, dtype=np.float32)}, parts=parts)
    night = replace(night, search=known)
    late = make_late_items(
        replace(night, embedder=Broken()), [item("late", "Quokka"), item("red-005", "Quokka too")], None, CUTOFF
    )
    release = extend(night, late)
    assert "could not be embedded" in caplog.text
    assert not release.tables.spaces["fused"][release.row_of("late")].any()
    before = night.tables.spaces["fused"][night.row_of("red-005")]
    np.testing.assert_array_equal(release.tables.spaces["fused"][release.row_of("red-005")], before)
    row = release.row_of("red-005")
    assert release.search.hubs["text"][row] == row  # or it would be found before its like
    assert release.search.parts["text"][row].all()
    found = search(release, Query("quokka"), embed=False)
    assert {item.item_id for item in found.items} == {"late", "red-005"}


def test_what_nobody_bought_has_the_features_of_its_like(night):
    late = late_items(night, item("late", None, category="Things > red", brand="brand 1", price_cents=2000))[0]
    known = dict(zip(ITEM_FEATURES, late.features.tolist()))
    assert known["price_cents"] == 2000
    prices = night.tables.items[:, ITEM_FEATURES.index("price_cents")]
    reds = prices[night.tables.category == late.codes["category"]]
    assert known["price_in_category"] == pytest.approx(2000 / np.nanmedian(reds), rel=1e-4)
    assert night.search.codes["category"][late.codes["category"]] == b"Things > red"
    assert late.codes["family"] == -1
