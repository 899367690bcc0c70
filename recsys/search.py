"""Search, whole: a query's words and picture → items by meaning and by word → one order → slate.

    search(release, Query("red wool scarf"))

By meaning: the query is embedded into the space of the items, and the index brings the nearest. By word: BM25 brings
what literally says it, so that a code or a brand is found. Both score everything that either brought.

torch is loaded by the first query that needs it, or by whoever warms the release's embedder before.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.alignment.hubs import SHARE
from recsys.artifacts import Release
from recsys.errors import UnreadableImage
from recsys.histories import Float32, Int32
from recsys.reasons import embedding_shares, shared_out
from recsys.request import Reason, Slate, SlateItem
from recsys.retrieval.places import rank_within
from recsys.words import LONGEST_QUERY, WordIndex, idf, words_of

logger = logging.getLogger(__name__)

# Where at most so many may be shown, all of them are compared: for fewer of a million, Faiss would walk most lists.
EXACT_ITEMS = 20_000
SMALL_CATALOGUE = 5_000  # in which common words are read too


@dataclass(frozen=True)
class Query:
    """What somebody looks for: words, a picture, or both.

    Attributes:
        text: in the shopper's words; None or blank for none.
        picture: the bytes of a picture.
        limit: items at most.
        explain: fill in the reasons.
    """

    text: str | None = None
    picture: bytes | None = None
    limit: int = 24
    explain: bool = False

    @property
    def kinds(self) -> list[str]:
        """What is asked with: "text", "image" or both."""
        given = (("text", self.words), ("image", self.picture))
        return [kind for kind, what in given if what is not None]

    @property
    def words(self) -> str | None:
        """The text, None where it says nothing."""
        return self.text if self.text is not None and self.text.strip() else None


@dataclass(frozen=True)
class SearchConfig:
    """How meaning and words are blended; chosen on half of some planted queries of the demonstration shop.

    Attributes:
        depth: candidates that each side may bring.
        rank_base: k of reciprocal rank fusion: 1 / (k + rank).
        meaning, words: weights of the two sides in it.
        reviews: weight of BM25 over the reviews, beside 1 for what the shop says; a word that both say counts once.
        literal: added where an item says every word of the query, times how telling the words are (0 to 1).
        common: a word that this share of a large catalogue says is passed over where the query has a rarer one.
    """

    depth: int = 200
    rank_base: float = 20.0
    meaning: float = 1.0
    words: float = 1.0
    reviews: float = 1.0
    literal: float = 0.2
    common: float = 0.2


@dataclass(frozen=True)
class Found:
    """Candidates of one query, by row.

    Attributes:
        rows: int32 [c], ascending.
        meaning: float32 [c], cosine to the query less what the item owes to being a hub, see recsys/alignment/hubs.py;
            NaN where the query or the item has no vector.
        said: float32 [c], BM25 over what the shop says; 0 where it says none of the words.
        reviewed: float32 [c], what the reviews add to it.
        literal: float32 [c], see SearchConfig.literal; 0 unless every word is said.
    """

    rows: Int32
    meaning: Float32
    said: Float32
    reviewed: Float32
    literal: Float32


def search(
    release: Release,
    query: Query,
    *,
    allowed: npt.NDArray[np.bool_] | None = None,
    embed: bool = True,
    config: SearchConfig = SearchConfig(),
) -> Slate:
    """Answer ``query`` from ``release``.

    Args:
        release: from load_release(), or one extended by what came after it.
        query: see Query.
        allowed: bool [n_items], what may be shown. None: what was in stock when the release was made.
        embed: False answers by words alone, as where the encoders are not at hand.
        config: see SearchConfig.
    Returns:
        At most ``query.limit`` items, best first. ``fallback`` is "full", "without_words" (the release has no index of
        words, and there were words), "without_encoder" (by words alone), or "newest" where neither side could answer.

    Raises:
        UnreadableImage: the picture is none that we accept.
    """
    mask = release.in_stock if allowed is None else allowed
    vector = _embedded(release, query) if embed else None
    words = (
        list(dict.fromkeys(words_of(query.words)))[:LONGEST_QUERY]
        if query.words is not None and release.search is not None
        else []
    )
    fallback = "full"
    if vector is None and not words:
        return _newest(release, mask, query.limit)
    if vector is None:
        fallback = "without_encoder"
    elif query.words is not None and release.search is None:
        fallback = "without_words"
    found = _candidates(release, vector, query.kinds, words, mask, config)
    scores = _blend(found, config)
    best = np.argsort(-scores, kind="stable")[: query.limit]
    reasons: Sequence[tuple[Reason, ...]] = [()] * len(best)
    if query.explain:
        reasons = [_why(release, query, vector, found, config, place) for place in best.tolist()]
    items = tuple(
        SlateItem(release.item_ids[int(found.rows[place])], rank, float(scores[place]), why)
        for rank, (place, why) in enumerate(zip(best.tolist(), reasons), start=1)
    )
    return Slate(items, fallback, release.manifest.version, len(found.rows))


def _newest(release: Release, allowed: npt.NDArray[np.bool_], limit: int) -> Slate:
    rows = release.retrieval.newest
    rows = rows[allowed[rows]][:limit]
    items = tuple(SlateItem(release.item_ids[row], rank, 1.0 / rank) for rank, row in enumerate(rows.tolist(), start=1))
    return Slate(items, "newest", release.manifest.version)


def _embedded(release: Release, query: Query) -> Float32 | None:
    """The query's vector; None where it cannot be had, which the log says."""
    if release.embedder is None:
        return None
    try:
        return release.embedder.embed_query(query.words, query.picture)
    except UnreadableImage:
        raise
    except Exception:  # whatever broke, the words still answer
        logger.exception("release %s could not embed a query", release.manifest.version)
        return None


def _candidates(
    release: Release,
    vector: Float32 | None,
    asked: Sequence[str],
    words: Sequence[str],
    allowed: npt.NDArray[np.bool_],
    config: SearchConfig,
) -> Found:
    brought: list[Int32] = []
    if vector is not None:
        brought.append(_nearest(release, vector, allowed, config.depth))
    said = reviewed = None
    if words and release.search is not None:
        n_items = len(release.item_ids)
        said = sum_words(release.search.words, words, n_items, config.common)
        beside = said if config.reviews else None
        reviewed = sum_words(release.search.reviews, words, n_items, config.common, beside, config.reviews)
        brought.append(best_by_word(said, reviewed, config.reviews, allowed, config.depth))
        brought.append(said.whole[allowed[said.whole]][: config.depth])
    rows = np.unique(np.concatenate(brought)) if brought else np.zeros(0, np.int32)
    meaning = np.full(len(rows), np.nan, np.float32)
    if vector is not None:
        vectors = np.asarray(release.retrieval.embeddings[rows], np.float32)
        likeness = vectors @ vector - np.float32(SHARE) * _hubness(release, asked, rows)
        meaning = np.where(vectors.any(axis=1), likeness, np.nan).astype(np.float32)
    if said is None or reviewed is None:
        nothing = np.zeros(len(rows), np.float32)
        return Found(rows, meaning, nothing, nothing, nothing)
    literal = _among(said.whole, rows) * np.float32(said.telling)
    return Found(rows, meaning, said.total[rows], reviewed.total[rows], literal.astype(np.float32))


def _hubness(release: Release, asked: Sequence[str], rows: Int32) -> Float32:
    """The items' hubness for what is asked with, float32 [c]; the mean of both kinds where both are."""
    hubs = release.search.hubs if release.search is not None else {}
    known = [np.asarray(hubs[kind][rows], np.float32) for kind in asked if kind in hubs]
    return np.mean(known, axis=0, dtype=np.float32) if known else np.zeros(len(rows), np.float32)


def _nearest(release: Release, vector: Float32, allowed: npt.NDArray[np.bool_], depth: int) -> Int32:
    """Rows nearest to the query among those that may be shown."""
    count = np.count_nonzero(allowed)
    few = np.flatnonzero(allowed) if count <= EXACT_ITEMS else None
    if few is None and release.retrieval.index is not None:
        rows, _ = release.retrieval.index.search(vector[None], depth, allowed if count < len(allowed) else None)
        return np.asarray(rows[0][rows[0] >= 0], np.int32)
    if few is None:
        return np.zeros(0, np.int32)
    vectors = np.asarray(release.retrieval.embeddings[few], np.float32)
    likeness = vectors @ vector
    alike_in_nothing = np.flatnonzero(likeness == 0)
    likeness[alike_in_nothing[~vectors[alike_in_nothing].any(axis=1)]] = -np.inf  # no vector: never found
    best = np.argpartition(-likeness, depth)[:depth] if len(few) > depth else np.arange(len(few))
    return np.asarray(few[best[np.isfinite(likeness[best])]], np.int32)


@dataclass(frozen=True)
class Said:
    """What one index of words says of a query.

    Attributes:
        total: float32 [n], BM25; 0 where none of the words is said.
        postings: word → the rows that say it, int32, ascending, and what it adds to each, float32.
        whole: int32, ascending, where every word is said.
        telling: 0 to 1, the mean idf of the words as a share of that of a word that one item alone says.
    """

    total: Float32
    postings: Mapping[str, tuple[Int32, Float32]]
    whole: Int32
    telling: float

    def at(self, word: str, rows: Int32) -> Float32:
        """What a word adds to each of ``rows``, float32 [r]."""
        holders, values = self.postings.get(word, (rows[:0], np.zeros(0, np.float32)))
        if len(holders) == 0:
            return np.zeros(len(rows), np.float32)
        places = np.minimum(holders.searchsorted(rows), len(holders) - 1)
        return np.where(holders[places] == rows, values[places], np.float32(0))


def sum_words(
    index: WordIndex,
    words: Sequence[str],
    n_items: int,
    common: float,
    said: Said | None = None,
    weight: float = 1.0,
) -> Said:
    """Work is in the number of items that say a word, and not in that of the catalogue.

    Args:
        index: of what is said.
        words: of the query, each once.
        n_items: of the catalogue.
        common: see SearchConfig.
        said: of another index. A word that both say counts once, by the one in which it counts more: what is summed is
            what this index, counting ``weight``, adds to the other.
        weight: above 0 where ``said`` is given.
    """
    holders = {word: index.holders(word) for word in words}
    # A query of common words alone still has an answer.
    rare = [word for word, n in holders.items() if n <= common * n_items or n_items < SMALL_CATALOGUE]
    kept = rare if any(holders[word] for word in rare) else list(holders)
    kept.sort(key=lambda word: holders[word])
    postings = {word: index.postings(word) for word in kept}
    whole = postings[kept[0]][0] if kept else np.zeros(0, np.int32)
    for rows, _ in list(postings.values())[1:]:
        whole = whole[_among(rows, whole)]
    if said is not None:
        postings = {
            word: (rows, np.maximum(values - said.at(word, rows) / np.float32(weight), 0))
            for word, (rows, values) in postings.items()
        }
    postings = {word: (rows, values) for word, (rows, values) in postings.items() if len(rows)}
    # Zeros for a million items cost more than most words do: where nothing is said, one stands for all.
    total = np.zeros(n_items, np.float32) if postings else np.broadcast_to(np.float32(0), n_items)
    for rows, values in postings.values():
        total[rows] += values
    telling = float(np.mean([idf(holders[word], n_items) for word in kept])) / idf(1, n_items) if kept else 0.0
    return Said(total, postings, whole, min(telling, 1.0))


def _among(ascending: Int32, rows: Int32) -> npt.NDArray[np.bool_]:
    """Which of ``rows`` stand in ``ascending``, bool [r], by binary search."""
    if len(ascending) == 0:
        return np.zeros(len(rows), bool)
    found: npt.NDArray[np.bool_] = ascending[np.minimum(ascending.searchsorted(rows), len(ascending) - 1)] == rows
    return found


def best_by_word(said: Said, reviewed: Said, weight: float, allowed: npt.NDArray[np.bool_], depth: int) -> Int32:
    """The ``depth`` best rows by word among those that may be shown.

    Words are read from the rarest on, until all that are left could not lift a row that says none of those read above
    the ``depth`` best: a common word, which most rows say, mostly need not be read.

    Source: MaxScore, Turtle and Flood 1995.
    """
    words = [
        (rows, scale * float(values.max()))
        for scale, source in ((1.0, said), (weight, reviewed))
        for rows, values in source.postings.values()
    ]
    words.sort(key=lambda word: len(word[0]))
    left = sum(most for _, most in words)

    def scores(rows: Int32) -> Float32:
        return said.total[rows] + np.float32(weight) * reviewed.total[rows]

    def best(rows: Int32) -> Int32:
        return rows[np.argpartition(-scores(rows), depth)[:depth]] if len(rows) > depth else rows

    found = np.zeros(0, np.int32)
    for rows, most in words:
        # The best of each list first: to sort all that a common word brings costs more than everything else.
        found = best(np.union1d(found, best(rows[allowed[rows]])))
        left -= most
        if len(found) == depth and scores(found).min() >= left:
            break
    return found.astype(np.int32)


def _sides(found: Found, config: SearchConfig) -> tuple[Float32, Float32]:
    """What each side adds to the score: by meaning, and by word."""
    by_word = found.said + np.float32(config.reviews) * found.reviewed
    scores = np.concatenate([found.meaning, np.where(by_word > 0, by_word, np.nan)])
    ranks = rank_within(np.repeat(np.arange(2), len(by_word)), scores).reshape(2, -1)
    weights = np.array([[config.meaning], [config.words]], np.float32)
    meaning, words = np.nan_to_num(weights / (np.float32(config.rank_base) + ranks))
    return meaning, words + np.float32(config.literal) * found.literal


def _blend(found: Found, config: SearchConfig) -> Float32:
    """Reciprocal rank fusion of the two sides, and a bonus for what says it all.

    Source: Cormack, Clarke, Büttcher 2009.
    """
    meaning, words = _sides(found, config)
    return meaning + words


def _why(
    release: Release, query: Query, vector: Float32 | None, found: Found, config: SearchConfig, place: int
) -> tuple[Reason, ...]:
    """The shares of a hit's own score: what it has by meaning is shared out over image, text and reviews."""
    row = int(found.rows[place])
    meaning, words = (float(side[place]) for side in _sides(found, config))
    parts: dict[str, float] = {}
    if vector is not None and meaning > 0:
        parts = {name: meaning * share for name, share in embedding_shares(release, vector, row).items()}
    said, reviewed = float(found.said[place]), config.reviews * float(found.reviewed[place])
    if words > 0:
        literal = config.literal * float(found.literal[place])
        by_review = (words - literal) * reviewed / max(said + reviewed, 1e-9)
        parts["words"] = words - by_review
        parts["reviews"] = parts.get("reviews", 0.0) + by_review
    asked = " and ".join(
        what for what, given in ((f"“{query.words}”", query.words), ("the picture", query.picture)) if given is not None
    )
    by_words = words >= meaning
    says = "Says" if found.literal[place] > 0 else "Matches"
    return (
        Reason(
            source="words" if by_words else "embedding",
            shares=shared_out(parts),
            text=f"{says} {asked}" if by_words else f"Resembles {asked}",
        ),
    )
