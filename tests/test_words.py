"""BM25: what says the words comes, codes and brands included; the same from disk, and for items that came late."""

import math
from collections import Counter

import numpy as np
import pytest

from recsys.errors import ReleaseError
from recsys.late_words import late_words
from recsys.words import K1, B, build_vocabulary, build_words, load_vocabulary, load_words, words_of

TEXTS = ["Red wool scarf Alba", "Blue dress 100003-05", "red dress, red!", None, "zebra Alba"]


def scored(index, word):
    rows, values = index.postings(word)
    return dict(zip(rows.tolist(), values.tolist()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Red, RED reD", ["red", "red", "red"]),
        ("art. KX-204/b", ["art", "kx-204/b", "kx", "204", "b"]),
        ("Straße ＡＢＣ", ["strasse", "abc"]),
        ("Café CRÈME, İpek; ёлка", ["cafe", "creme", "ipek", "елка"]),
        ("cafe\N{COMBINING ACUTE ACCENT}", ["cafe"]),
        ("がく 한복", ["が", "く", "がく", "한복"]),  # か is another letter; Korean has spaces
        ("赤い ドレス", ["赤", "い", "赤い", "ド", "レ", "ス", "ドレ", "レス"]),
        ("棉T恤2件", ["棉", "t", "恤", "2", "件"]),
        ("§$%  ", []),
        ("", []),
    ],
)
def test_words_are_folded_and_codes_come_whole_and_in_parts(text, words):
    assert words_of(text) == words


def test_a_phrase_without_spaces_is_found_by_what_is_in_it():
    index = build_words(["红色连衣裙", "红色上装", "蓝色长裤"])
    for query in ("连衣裙", "裙"):
        assert [set(scored(index, word)) for word in words_of(query)] == [{0}] * len(words_of(query))


def test_scores_are_bm25_by_hand():
    index = build_words(TEXTS)
    lengths = [len(words_of(text or "")) for text in TEXTS]
    mean = sum(lengths) / 5
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))  # two of five say "red"
    expected = {row: idf * n / (n + K1 * (1 - B + B * lengths[row] / mean)) for row, n in ((0, 1), (2, 2))}
    assert scored(index, "red") == pytest.approx(expected, rel=1e-5)
    assert index.holders("red") == 2
    assert scored(index, "100003-05").keys() == scored(index, "05").keys() == {1}
    assert scored(index, "unheard") == {}
    assert index.holders("unheard") == 0


def test_what_is_saved_is_loaded_and_equal_texts_make_equal_bytes(tmp_path):
    build_words(TEXTS).save(tmp_path / "a")
    build_words(TEXTS).save(tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    index, loaded = build_words(TEXTS), load_words(tmp_path / "a")
    for word in ("red", "alba", "100003", "zebra", "nothing"):
        assert scored(index, word) == scored(loaded, word)


@pytest.mark.parametrize("texts", [[], [None, ""], ["?!"]])
def test_a_shop_that_says_nothing_has_an_index_all_the_same(texts, tmp_path):
    build_words(texts).save(tmp_path)
    assert scored(load_words(tmp_path), "red") == {}


@pytest.mark.parametrize("harm", ["missing", "short", "pickled", "other"])
def test_a_damaged_index_is_refused(harm, tmp_path):
    build_words(TEXTS).save(tmp_path)
    if harm == "missing":
        (tmp_path / "rows.npy").unlink()
    elif harm == "short":
        np.save(tmp_path / "rows.npy", np.zeros(1, np.int32))
    elif harm == "pickled":
        np.save(tmp_path / "rows.npy", np.array([{"a": 1}], object), allow_pickle=True)
    else:
        (tmp_path / "words.json").write_text('{"items": 5, "mean_length": 3, "k1": 9, "b": 0.6}')
    with pytest.raises(ReleaseError, match="expected an index of words"):
        load_words(tmp_path)


def test_names_are_found_by_place_and_in_the_order_of_their_bytes(tmp_path):
    names = ["b", "a", "é", "Z", "日本", "a"]
    build_vocabulary(names).save(tmp_path, "brand")
    loaded = load_vocabulary(tmp_path, "brand")
    ordered = sorted(set(names), key=str.encode)
    assert [loaded.find(name) for name in ordered] == list(range(5))
    assert loaded.find("c") is None
    assert loaded.find("") is None


def test_a_late_item_scores_as_if_the_night_had_known_it():
    base, place = build_words(TEXTS), np.full(6, -1, np.int32)
    place[[2, 5]] = [0, 1]  # row 2 says something else now, row 5 is new
    counts = [Counter(words_of(text)) for text in ("Green gown", TEXTS[0])]
    late = late_words(base, place, np.array([2, 5], np.int32), counts)
    # The new one says what row 0 says.
    assert scored(late, "red") == pytest.approx({0: scored(base, "red")[0], 5: scored(base, "red")[0]}, rel=1e-5)
    assert scored(late, "gown").keys() == {2}  # a word that the night had never seen
    assert scored(late, "dress").keys() == {1}
    assert scored(late, "zebra") == scored(base, "zebra")
    assert (late.holders("gown"), late.holders("zebra"), late.holders("never")) == (1, 1, 0)


def test_a_word_that_more_late_items_say_than_the_night_had_items_still_speaks_for_them():
    base, place = build_words(TEXTS[:1]), np.array([-1, 0, 1, 2], np.int32)
    late = late_words(base, place, np.arange(1, 4, dtype=np.int32), [Counter(words_of("gown"))] * 3)
    assert scored(late, "gown").keys() == {1, 2, 3}
    assert min(scored(late, "gown").values()) > 0
