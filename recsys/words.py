"""Search by the words themselves: BM25 over what an item says, so that product codes and brand names are found.

The scores are computed by bm25s when the release is made and lie in the release as sorted arrays, memory-mapped; a
query sums a few slices of them. Nothing is unpickled, and no dictionary of words is held in memory: the vocabulary is
one sorted array of bytes that is searched in place.
"""

import json
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from recsys.errors import ReleaseError
from recsys.histories import Float32, Int32, Int64

K1, B = (
    1.2,
    0.6,
)  # saturation of a repeated word, and how much a long text is held against it; Lucene's are 1.2 and 0.75
LONGEST_QUERY = 64  # distinct words of a query that count
LONGEST_WORD = 64  # characters
_WORD = re.compile(r"\w+(?:[-./'’]\w+)*")
_PART = re.compile(r"[-./'’]")
_ACCENT = re.compile("[\u0300-\u036f]")  # of Latin, Greek and Cyrillic; other scripts' marks are letters
# Han and kana.
_UNSPACED = re.compile("[\u3005\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+")


def words_of(text: str) -> list[str]:
    """The words of a text in order, compounds both whole and in parts, so that a code is found as written and as typed.

    Case and accents do not count. Chinese and Japanese have no spaces: their characters and pairs of these are words.

    >>> words_of("Alba’s T-shirt, art. 100003-05")
    ['alba’s', 'alba', 's', 't-shirt', 't', 'shirt', 'art', '100003-05', '100003', '05']
    """
    found: list[str] = []
    for word in _WORD.findall(_UNSPACED.sub(r" \g<0> ", _folded(text))):
        if _UNSPACED.match(word):
            found += [*word, *map("".join, pairwise(word))]
            continue
        found.append(word[:LONGEST_WORD])
        parts = _PART.split(word)
        if len(parts) > 1:
            found += [part[:LONGEST_WORD] for part in parts if part]
    return found


def _folded(text: str) -> str:
    """One spelling of what differs in case, accents, or width only."""
    bare = _ACCENT.sub("", unicodedata.normalize("NFKD", text)).casefold()
    return unicodedata.normalize("NFKC", bare)


class Vocabulary(Sequence[bytes]):
    """Distinct words as UTF-8, ascending; a word's position is its number. Searched in place, never copied whole."""

    def __init__(self, letters: npt.NDArray[np.uint8], ends: Int64) -> None:
        self.letters = letters
        self.ends = ends

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: Any) -> Any:
        start = self.ends[number - 1] if number else 0
        return self.letters[start : self.ends[number]].tobytes()

    def find(self, word: str) -> int | None:
        """The number of a word, None for one that is not there."""
        wanted = word.encode()
        number = bisect_left(self, wanted)
        return number if number < len(self) and self[number] == wanted else None

    def save(self, folder: Path, name: str) -> None:
        """Write ``<name>.letters.npy`` and ``<name>.ends.npy`` into ``folder``."""
        np.save(folder / f"{name}.letters.npy", self.letters)
        np.save(folder / f"{name}.ends.npy", self.ends)


def build_vocabulary(words: Iterable[str]) -> Vocabulary:
    """The distinct ones of ``words``, in the order of their UTF-8 bytes (which is polars' order too)."""
    coded = sorted({word.encode() for word in words})
    return Vocabulary(np.frombuffer(b"".join(coded), np.uint8), np.cumsum([len(w) for w in coded], dtype=np.int64))


def load_vocabulary(folder: Path, name: str) -> Vocabulary:
    """Open what :meth:`Vocabulary.save` wrote, memory-mapped."""
    letters, ends = (np.load(folder / f"{name}.{what}.npy", mmap_mode="r") for what in ("letters", "ends"))
    return Vocabulary(np.asarray(letters), np.asarray(ends))


@dataclass(frozen=True)
class WordIndex:
    """BM25 scores of every (word, item), by word: word ``i`` owns ``[starts[i], starts[i + 1])`` of the other two.

    Attributes:
        vocabulary: the words.
        starts: int64 [v + 1].
        rows: int32 [p], ascending within a word.
        values: float32 [p], > 0.
        mean_length: words of a mean item, for scoring one that came later.
        n_items: how many items were indexed.
    """

    vocabulary: Vocabulary
    starts: Int64
    rows: Int32
    values: Float32
    mean_length: float
    n_items: int

    def postings(self, word: str) -> tuple[Int32, Float32]:
        """Who says a word, ascending, and its BM25 score there."""
        number = self.vocabulary.find(word)
        mine = slice(0, 0) if number is None else slice(self.starts[number], self.starts[number + 1])
        return self.rows[mine], self.values[mine]

    def holders(self, word: str) -> int:
        """How many items say a word."""
        number = self.vocabulary.find(word)
        return 0 if number is None else int(self.starts[number + 1] - self.starts[number])

    def score_late(self, count: int, length: int, holders: int) -> float:
        """BM25 of a word that ``holders`` items say, for an item that is not in the index.

        Args:
            count: how often the item says it.
            length: how many words the item says.
            holders: how many items say it.

        Source: bm25s's method "lucene"; a test compares the two.
        """
        saturation = K1 * (1 - B + B * length / self.mean_length) if self.mean_length else K1
        return idf(holders, max(self.n_items, holders)) * count / (count + saturation)

    def save(self, folder: Path) -> None:
        """Write into ``folder``; the same index gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.vocabulary.save(folder, "words")
        for name in ("starts", "rows", "values"):
            np.save(folder / f"{name}.npy", getattr(self, name))
        about = {"items": self.n_items, "mean_length": self.mean_length, "k1": K1, "b": B}
        (folder / "words.json").write_text(json.dumps(about))


def idf(holders: int, n_items: int) -> float:
    """ln(1 + (n − holders + ½) / (holders + ½)): Robertson and Zaragoza 2009, as Lucene has it, never negative."""
    return float(np.log1p((n_items - holders + 0.5) / (holders + 0.5)))


def build_words(texts: Iterable[str | None]) -> WordIndex:
    """Index one text an item, in the order of rows; None and "" say nothing."""
    numbers: dict[str, int] = {}
    drawn = [[numbers.setdefault(word, len(numbers)) for word in words_of(text or "")] for text in texts]
    vocabulary = build_vocabulary(numbers)
    order = sorted(numbers, key=str.encode)
    place = np.zeros(len(order), np.int64)
    place[[numbers[word] for word in order]] = np.arange(len(order))
    ids = [place[each].tolist() for each in drawn]
    del drawn
    n_items, n_words = len(ids), sum(map(len, ids))
    if n_words == 0:
        nothing = np.zeros(0, np.float32)
        return WordIndex(vocabulary, np.zeros(1, np.int64), nothing.astype(np.int32), nothing, 0.0, n_items)
    retriever = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numpy")
    retriever.index((ids, dict(zip(order, range(len(order))))), create_empty_token=False, show_progress=False)
    scores = retriever.scores
    return WordIndex(
        vocabulary=vocabulary,
        starts=scores["indptr"].astype(np.int64),
        rows=scores["indices"].astype(np.int32),
        values=scores["data"].astype(np.float32),
        mean_length=n_words / n_items,
        n_items=n_items,
    )


def load_words(folder: Path) -> WordIndex:
    """Open what :meth:`WordIndex.save` wrote; arrays stay on disk until they are touched.

    Raises:
        ReleaseError: a file is missing, or is not what it should be.
    """
    try:
        about = json.loads((folder / "words.json").read_text())
        if (about["k1"], about["b"]) != (K1, B):
            raise ValueError(f"expected k1 {K1} and b {B}, came {about['k1']} and {about['b']}")
        vocabulary = load_vocabulary(folder, "words")
        # Seen as plain arrays: numpy's memmap class makes each small operation slower.
        starts, rows, values = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("starts", "rows", "values")
        )
        if len(vocabulary) + 1 != len(starts) or not len(rows) == len(values) == starts[-1]:
            raise ValueError("arrays of lengths that do not fit together")
        return WordIndex(vocabulary, starts, rows, values, float(about["mean_length"]), int(about["items"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{folder}: expected an index of words: {error}") from error
