"""Search as a function: what each side brings, how they blend, what a filter leaves, and what the shares say."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import UnreadableImage
from recsys.search import Query, SearchConfig, best_by_word, search, sum_words
from recsys.search_index import SearchIndex
from recsys.words import build_words
from tests.builders import EXACT, LISTS, build_release, build_shop, recipe

N_ITEMS = 80


class Planted:
    """An embedder that knows one vector, or breaks."""

    def __init__(self, vector=None, error=None):
        self.vector, self.error = vector, error

    def embed_query(self, text, picture):
        if self.error is not None:
            raise self.error
        return self.vector


@pytest.fixture(scope="module", params=[EXACT, LISTS], ids=["flat", "ivf"])
def release(request):
    """Every item says its id and taste; red-007 is reviewed as squeaky; an embedding is three parts picture."""
    made = build_release(*build_shop(N_ITEMS), recipe(request.param), ranker=False)
    said = build_words(f"{item_id} {item_id[:-4]} thing" for item_id in made.item_ids)
    reviews = build_words("it squeaks" if item_id == "red-007" else None for item_id in made.item_ids)
    fused = np.asarray(made.tables.spaces["fused"], np.float32)
    parts = {"image": (0.75 * fused).astype(np.float16), "text": (0.25 * fused).astype(np.float16)}
    index = SearchIndex(said, reviews, parts, np.zeros((N_ITEMS, 2), np.uint64), {})
    return replace(made, in_stock=np.ones(N_ITEMS, bool), search=index)


def vector_of(release, item_id):
    return np.asarray(release.tables.spaces["fused"][release.row_of(item_id)], np.float32)


def knowing(release, item_id):
    return replace(release, embedder=Planted(vector_of(release, item_id)))


def shown(slate):
    return [item.item_id for item in slate.items]


def test_meaning_alone_is_the_order_of_the_cosine(release):
    slate = search(replace(knowing(release, "gold-005"), search=None), Query("x", limit=10))
    assert slate.fallback == "without_words"
    fused = np.asarray(release.tables.spaces["fused"], np.float32)
    best = np.argsort(-(fused @ vector_of(release, "gold-005")), kind="stable")[:10]
    assert shown(slate) == [release.item_ids[row] for row in best]
    assert search(knowing(release, "gold-005"), Query(picture=b"p", limit=10)).fallback == "full"


def test_what_is_near_to_every_question_of_its_kind_stands_back(release):
    """By twice the difference to the second, so that it comes second; only where it is asked with that kind."""
    asked = knowing(release, "gold-005")
    fused = np.asarray(release.tables.spaces["fused"], np.float32)
    first, second = np.argsort(-(fused @ vector_of(release, "gold-005")), kind="stable")[:2].tolist()
    hubs = np.zeros(N_ITEMS, np.float32)
    hubs[first] = 2.1 * ((fused[first] - fused[second]) @ vector_of(release, "gold-005"))
    asked = replace(asked, search=replace(release.search, hubs={"image": hubs}))
    by_picture, by_words = search(asked, Query(picture=b"p", limit=3)), search(asked, Query("zzz", limit=3))
    assert shown(by_picture)[:2] == [release.item_ids[second], release.item_ids[first]]
    assert shown(by_words)[:2] == [release.item_ids[first], release.item_ids[second]]


def test_words_alone_are_the_order_of_bm25(release):
    slate = search(release, Query("Squeaks RED", limit=30))
    assert slate.fallback == "without_encoder"
    assert shown(slate)[0] == "red-007"
    assert {item_id[:3] for item_id in shown(slate)} == {"red"}
    assert len(shown(slate)) == 20
    assert search(release, Query("nobody says this")).items == ()


def test_a_code_comes_first_whatever_the_meaning(release):
    slate = search(knowing(release, "gold-005"), Query("blue-011", limit=5))
    assert shown(slate)[0] == "blue-011"
    assert slate.fallback == "full"


def test_both_sides_are_there(release):
    found = shown(search(knowing(release, "gold-005"), Query("squeaks", limit=12)))
    assert found[0] == "red-007"
    assert sum(item_id.startswith("gold") for item_id in found) >= 8


def test_only_what_is_allowed_is_found(release):
    allowed = np.zeros(N_ITEMS, bool)
    allowed[[release.row_of("red-001"), release.row_of("gold-001")]] = True
    both = search(knowing(release, "gold-005"), Query("red-007 red", limit=9), allowed=allowed)
    assert set(shown(both)) == {"red-001", "gold-001"}
    sold_out = replace(knowing(release, "gold-005"), in_stock=~allowed)
    assert not {"red-001", "gold-001"} & set(shown(search(sold_out, Query("red thing", limit=80))))
    assert search(release, Query("red"), allowed=np.zeros(N_ITEMS, bool)).items == ()


def test_a_large_catalogue_is_filtered_inside_the_index(release, monkeypatch):
    monkeypatch.setattr("recsys.search.EXACT_ITEMS", 1)
    allowed = np.array([item_id.startswith("red") for item_id in release.item_ids])
    slate = search(replace(knowing(release, "gold-005"), search=None), Query("x", limit=5), allowed=allowed)
    fused = np.asarray(release.tables.spaces["fused"], np.float32)
    likeness = np.where(allowed & fused.any(axis=1), fused @ vector_of(release, "gold-005"), -9)
    assert shown(slate)[0] == release.item_ids[int(np.argmax(likeness))]
    assert slate.items
    assert all(item_id.startswith("red") for item_id in shown(slate))


def test_shares_are_of_the_hits_own_score(release):
    config = SearchConfig()
    slate = search(knowing(release, "red-007"), Query("squeaks", limit=3, explain=True))
    (reason,) = slate.items[0].reasons
    # First by meaning and by word; a quarter of its meaning is its text's; only the review says the word.
    meaning, words = config.meaning / (config.rank_base + 1), config.words / (config.rank_base + 1)
    total = meaning + words
    expected = {"image": 0.75 * meaning / total, "text": 0.25 * meaning / total, "reviews": words / total}
    assert {name: reason.shares.get(name, 0.0) for name in expected} == pytest.approx(expected, abs=2e-3)
    assert slate.items[0].score == pytest.approx(total, rel=1e-5)
    assert (reason.source, reason.text) == ("words", "Matches “squeaks”")
    (other,) = slate.items[1].reasons
    assert other.shares == pytest.approx({"image": 0.75, "text": 0.25}, abs=2e-3)
    assert (other.source, other.text) == ("embedding", "Resembles “squeaks”")


@pytest.mark.parametrize("query", [Query("red"), Query("red", b"picture"), Query(picture=b"picture")])
def test_a_broken_encoder_leaves_a_lesser_answer(release, query, caplog):
    broken = replace(release, embedder=Planted(error=RuntimeError("no weights")))
    slate = search(broken, query)
    assert slate.fallback == ("without_encoder" if query.text else "newest")
    assert len(slate.items) > 5
    assert "could not embed a query" in caplog.text


def test_a_bad_picture_is_the_callers(release):
    with pytest.raises(UnreadableImage, match="truncated"):
        search(replace(release, embedder=Planted(error=UnreadableImage("truncated"))), Query("red", b"x"))


def test_words_that_everything_says_count_only_where_there_are_no_others(release, monkeypatch):
    monkeypatch.setattr("recsys.search.SMALL_CATALOGUE", 10)  # so that this shop counts as a large one
    # "red" too is said by a quarter of it; the part "003" of the code is not.
    found = shown(search(release, Query("thing red-003", limit=80)))
    assert found[0] == "red-003"
    assert set(found) == {"red-003", "blue-003", "gold-003", "green-003"}
    assert len(search(release, Query("thing", limit=80)).items) == 80


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_the_best_by_word_are_those_of_the_whole_sum_though_common_words_are_not_read(share):
    rng = np.random.default_rng(0)
    n_items, n_words, depth = 2_000, 200, 25
    common_first = 1 / np.arange(3, n_words + 3)

    def texts(length):
        drawn = rng.choice(n_words, (n_items, length), p=common_first / common_first.sum())
        return build_words(" ".join(f"word{number}" for number in each) for each in drawn)

    said, reviewed, allowed = texts(6), texts(12), rng.random(n_items) < share
    for _ in range(50):
        words = [f"word{number}" for number in rng.choice(n_words, rng.integers(1, 5), replace=False)]
        sums = [sum_words(said, words, n_items, common=1.0)]
        sums.append(sum_words(reviewed, words, n_items, 1.0, sums[0], 0.5))
        by_word = [
            np.maximum(*(weight * sum_words(index, [word], n_items, 1.0).total for index, weight in both))
            for both in [((said, 1.0), (reviewed, 0.5))]
            for word in words
        ]
        assert sums[0].total + 0.5 * sums[1].total == pytest.approx(np.sum(by_word, axis=0), abs=1e-4)
        scores = np.where(allowed, sums[0].total + 0.5 * sums[1].total, 0)
        best = best_by_word(*sums, 0.5, allowed, depth)
        expected = np.sort(scores[scores > 0])[::-1][:depth]
        assert np.sort(scores[best])[::-1] == pytest.approx(expected)
        assert allowed[best].all()


def test_a_query_of_a_thousand_words_is_cut(release):
    many = " ".join(f"word{number}" for number in range(1_000)) + " red"
    assert search(release, Query(many)).items == ()
    assert search(release, Query("red " + many)).items


def test_neither_importing_nor_recommending_loads_torch():
    code = "import sys, service.app, recsys.recommend, recsys.search; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
