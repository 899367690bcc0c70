"""The words of items that came or changed after the night, beside the release's index of words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.histories import Float32, Int32
from recsys.words import WordIndex


@dataclass(frozen=True)
class LateWords(WordIndex):
    """Answers as the night's index would if it knew the late items; how telling a word is stays as the night found it.

    Attributes:
        place: int32 [n + new], the position of each row among the late items, -1 for the others.
        late_rows: int32 [m], of the late items.
        counts: of each late item, word → how often it says it.
    """

    place: Int32
    late_rows: Int32
    counts: Sequence[Mapping[str, int]]

    def postings(self, word: str) -> tuple[Int32, Float32]:
        """See WordIndex."""
        rows, values = super().postings(word)
        unchanged = self.place[rows] < 0
        mine = [number for number, said in enumerate(self.counts) if word in said]
        holders = self.holders(word)
        late = [
            self.score_late(said[word], sum(said.values()), holders)
            for said in (self.counts[number] for number in mine)
        ]
        rows = np.concatenate([rows[unchanged], self.late_rows[mine]]).astype(np.int32)
        values = np.concatenate([values[unchanged], np.array(late, np.float32)]).astype(np.float32)
        order = np.argsort(rows, kind="stable")
        return rows[order], values[order]

    def holders(self, word: str) -> int:
        """How many items say a word; where the night knew none, how many of the late ones do."""
        return super().holders(word) or sum(word in said for said in self.counts)


def late_words(base: WordIndex, place: Int32, rows: Int32, counts: Sequence[Mapping[str, int]]) -> LateWords:
    """``base`` and the late items' words; see LateWords."""
    return LateWords(**vars(base), place=place, late_rows=rows, counts=counts)
