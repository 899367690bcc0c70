"""Products that are there twice: candidates from a Faiss index over encodings, decided by the pixels and the words."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from recsys.encoders.pictures import read_bytes, read_picture
from recsys.errors import UnreadableImage
from recsys.histories import Float32
from recsys.retrieval.index import IndexConfig, build_index

Rows = NDArray[np.int64]

BLOCK = 8_192  # items whose neighbours are asked for at once
NEIGHBOURS = 12  # of an item, that may be its duplicates
ALIKE = 0.8  # cosine of encodings from which on a pair is looked at; the pixels or the words then decide
# Of the picture's own contrast, at most, that two thumbnails of one picture differ by. Nearly all copies that are
# smaller and compressed harder are below it, in each of four demonstration shops; others mostly start at 0.1.
SAME_PICTURE = 0.085
SAME_WORDS = 0.95  # of the words, at least, that two texts share: one in twenty may be another
SAME_WORDS_TOO = 0.8  # the same, where the pictures are the same already
FEW_WORDS = 4  # a text shorter than this is no evidence


def likely_pairs(vectors: Float32, threads: int) -> Rows:
    """Pairs of rows whose vectors are nearly parallel, int64 [p, 2], the lower row first; zero vectors are in none."""
    index = build_index([], vectors, IndexConfig(), threads)
    present = np.flatnonzero(vectors.any(axis=1))
    pairs = []
    for start in range(0, len(present), BLOCK):
        mine = present[start : start + BLOCK]
        rows, cosines = index.search_many(vectors[mine], NEIGHBOURS + 1)
        near = (cosines >= ALIKE) & (rows >= 0) & (rows != mine[:, None])
        pairs.append(np.stack([np.repeat(mine, near.sum(axis=1)), rows[near]], axis=1))
    if not pairs:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0)


def picture_difference(a: NDArray[np.float32] | None, b: NDArray[np.float32] | None) -> float:
    """Root mean square difference of two thumbnails, as a share of their contrast; inf where one is missing."""
    if a is None or b is None:
        return float("inf")
    contrast = max(float(np.sqrt((a.std() ** 2 + b.std() ** 2) / 2)), 4.0)  # a plain surface has none
    return float(np.sqrt(np.mean((a - b) ** 2))) / contrast


def thumbnail(path: Path | None) -> NDArray[np.float32] | None:
    """The picture at 24 × 24, float32 [24, 24, 3]: what survives another size or compression; None if unreadable."""
    if path is None:
        return None
    try:
        picture = read_picture(read_bytes(path), 48)
    except UnreadableImage:
        return None
    return np.asarray(picture.resize((24, 24), Image.Resampling.BILINEAR), np.float32)


def shared_words(a: str, b: str) -> float:
    """Share of the words that two texts have in common, by Dice; 0 where one has too few to tell.

    >>> shared_words("red wool scarf with long fringes", "red wool scarf with short fringes")
    0.8333333333333334
    """
    first, second = a.lower().split(), b.lower().split()
    if min(len(first), len(second)) < FEW_WORDS:
        return 0.0
    counts: dict[str, int] = {}
    for word in first:
        counts[word] = counts.get(word, 0) + 1
    common = 0
    for word in second:
        if counts.get(word, 0) > 0:
            counts[word] -= 1
            common += 1
    return 2 * common / (len(first) + len(second))


def same_pictures(pairs: Rows, path_of: Callable[[int], Path | None]) -> tuple[Rows, NDArray[np.float64]]:
    """Those of ``pairs`` that show one picture, and by how much they differ. Thumbnails are read once, in order."""
    seen: dict[int, NDArray[np.float32] | None] = {}
    last_use = {int(row): place for place, pair in enumerate(pairs) for row in pair}
    differences = np.full(len(pairs), np.inf)
    for place, (a, b) in enumerate(pairs.tolist()):
        for row in (a, b):
            if row not in seen:
                seen[row] = thumbnail(path_of(row))
        differences[place] = picture_difference(seen[a], seen[b])
        for row in {a, b}:
            if last_use[row] == place:  # bounded memory: let go of what no later pair asks for
                del seen[row]
    same = differences <= SAME_PICTURE
    return pairs[same], differences[same]


def same_words(pairs: Rows, texts: Sequence[str | None]) -> tuple[Rows, NDArray[np.float64]]:
    """Those of ``pairs`` that say the same but for a word or two, and how much they share."""
    shares = np.array([shared_words(texts[a] or "", texts[b] or "") for a, b in pairs.tolist()])
    same = shares >= SAME_WORDS
    return pairs[same], shares[same]


def groups_of(pairs: Rows, n_rows: int) -> NDArray[np.int64]:
    """A number for each pair, the same for pairs that hang together, from 0 in order of the lowest row."""
    if len(pairs) == 0:
        return np.zeros(0, np.int64)
    links = sparse.coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(n_rows, n_rows))
    _, component = connected_components(links, directed=False)
    _, group = np.unique(component[pairs[:, 0]], return_inverse=True)
    return np.asarray(group, np.int64)
