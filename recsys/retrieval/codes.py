"""Compact codes: a few bits an item instead of floats, found by Hamming distance and then rescored.

Two families, both made by a function that looks at the items and gives a frozen coder:

* :class:`SignCodes`: one bit a hyperplane. Plain ones take random rotations, learned ones ITQ's. Faiss compares them by
  Hamming distance; what that brings is rescored from the vectors, which may lie on disk (:class:`CodeIndex`).
* :class:`GradedCodes`: several bits a principal axis, most where the items differ most. They stand for the vector when
  a shortlist is to be rescored without it (:class:`DecodedVectors`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys.errors import ConfigError, ReleaseError
from recsys.histories import Float32

Codes = NDArray[np.uint8]

MAPPED = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY  # how an index is opened, so that workers share it
BLOCK = 65_536  # rows encoded at once: bounds memory, not the result
SAMPLE = 20_000  # rows that a coder is learned from, at most


@dataclass(frozen=True, eq=False)
class SignCodes:
    """One bit a hyperplane: on which side of it the vector lies.

    Attributes:
        mean: float32 [d], taken off first.
        planes: float32 [d, bits], the hyperplanes' normals.
    """

    mean: Float32
    planes: Float32

    @property
    def bits(self) -> int:
        """Bits of a code, a multiple of 8."""
        return int(self.planes.shape[1])

    def encode(self, vectors: Float32) -> Codes:
        """float32 [n, d] → uint8 [n, bits / 8]."""
        return _in_blocks(lambda block: np.packbits((block - self.mean) @ self.planes > 0, axis=1), vectors)


def plain_codes(vectors: Float32, bits: int, seed: int) -> SignCodes:
    """Signs of random rotations, as many rotations as give ``bits``; learned is the mean only.

    The angle between two vectors is about π times the share of bits in which they differ; orthogonal hyperplanes make
    that estimate steadier than independent ones.

    Args:
        vectors: float32 [n, d], of the items.
        bits: a multiple of 8.
        seed: of the rotations.
    Source: Charikar 2002; orthogonal planes: Ji et al. 2012, "Super-Bit Locality-Sensitive Hashing".
    """
    sample = _sample(vectors, bits, seed)
    rng = np.random.default_rng([seed, 1])
    planes = [_rotation(vectors.shape[1], rng)[:, :width] for width in _widths(vectors.shape[1], bits)]
    return SignCodes(sample.mean(axis=0), np.concatenate(planes, axis=1))


def learn_codes(vectors: Float32, bits: int, seed: int, rounds: int = 30) -> SignCodes:
    """Signs after ITQ rotations: the principal axes, turned until the vectors lie near the corners of their bits.

    More bits than dimensions come from several rotations, each learned from a start of its own.

    Args:
        vectors: float32 [n, d], of the items.
        bits: a multiple of 8; of more dimensions than bits, the leading principal axes are kept.
        seed: of the starts.
        rounds: of alternating minimisation; it settles in about 30.
    Source: Gong & Lazebnik 2011, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes".
    """
    sample = _sample(vectors, bits, seed)
    mean = sample.mean(axis=0)
    _, axes, _ = _principal_axes(sample)
    rng = np.random.default_rng([seed, 2])
    planes = []
    for width in _widths(vectors.shape[1], bits):
        kept = np.ascontiguousarray(axes[:, :width])
        turned, rotation = (sample - mean) @ kept, _rotation(width, rng)
        for _ in range(rounds):
            left, _, right = np.linalg.svd(turned.T @ np.sign(turned @ rotation))
            rotation = (left @ right).astype(np.float32)
        planes.append(kept @ rotation)
    return SignCodes(mean, np.concatenate(planes, axis=1))


@dataclass(frozen=True, eq=False)
class GradedCodes:
    """Several bits a principal axis, axis after axis.

    Attributes:
        mean: float32 [d].
        axes: float32 [d, a], orthonormal: those with at least one bit, widest first.
        widths: int [a], bits of each axis.
        levels: float32 [a, 256], the values that an axis can take, ascending; the rest is inf.
    """

    mean: Float32
    axes: Float32
    widths: NDArray[np.int64]
    levels: Float32

    @property
    def bits(self) -> int:
        """Bits of a code, a multiple of 8."""
        return int(self.widths.sum())

    def encode(self, vectors: Float32) -> Codes:
        """float32 [n, d] → uint8 [n, bits / 8]."""
        return _in_blocks(self._encode, vectors)

    def _encode(self, vectors: Float32) -> Codes:
        turned = (vectors - self.mean) @ self.axes
        out = np.zeros((len(vectors), self.bits), np.bool_)
        for axis, places in enumerate(self._places()):
            levels = self.levels[axis, : 2 ** len(places)]
            nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, turned[:, axis])
            for place, power in zip(places, range(len(places) - 1, -1, -1)):
                out[:, place] = nearest >> power & 1
        return np.packbits(out, axis=1)

    def decode(self, codes: Codes) -> Float32:
        """The unit vectors that codes uint8 [n, bits / 8] stand for, float32 [n, d].

        Brought back to unit norm, as the items are: that alone removes much of the error of an inner product.
        """
        bits = np.unpackbits(codes, axis=1)
        turned = np.empty((len(codes), len(self.widths)), np.float32)
        for axis, places in enumerate(self._places()):
            value = np.zeros(len(codes), np.int64)
            for place in places:
                value = 2 * value + bits[:, place]
            turned[:, axis] = self.levels[axis, value]
        vectors = turned @ self.axes.T + self.mean
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-9), np.float32)

    def _places(self) -> list[list[int]]:
        """Where in the code the bits of each axis stand, most significant first."""
        ends = np.cumsum(self.widths).tolist()
        return [list(range(end - width, end)) for end, width in zip(ends, self.widths.tolist())]


def graded_codes(vectors: Float32, bits: int, seed: int) -> GradedCodes:
    """Spend ``bits`` where they save most: each next bit goes to the principal axis with the largest error left.

    An axis' levels are those with the least squared error on a sample (Lloyd's algorithm in one dimension).

    Args:
        vectors: float32 [n, d], of the items.
        bits: a multiple of 8.
        seed: of the sample.
    Source: Brandt 2010, "Transform coding for fast approximate nearest neighbor search in high dimensions".
    """
    sample = _sample(vectors, bits, seed)
    mean, axes, variance = _principal_axes(sample)
    widths = np.zeros(len(variance), np.int64)
    for _ in range(bits):
        # A further bit on a Gaussian leaves about a quarter of the error, the first one a third.
        left = np.where(widths == 0, variance * 0.64, np.where(widths < 8, variance * 0.27 * 4.0 ** (1 - widths), -1.0))
        widths[np.argmax(left)] += 1
    used = np.flatnonzero(widths)
    levels = np.full((len(used), 256), np.inf, np.float32)
    turned = np.asarray((sample - mean) @ axes[:, used], np.float32)
    for axis, width in enumerate(widths[used]):
        levels[axis, : 2**width] = _lloyd(turned[:, axis], 2**width)
    return GradedCodes(mean, np.ascontiguousarray(axes[:, used]), widths[used], levels)


@dataclass(frozen=True, eq=False)
class DecodedVectors:
    """Vectors that are made from their codes whenever they are asked for: indexed by rows like an array.

    Attributes:
        codes: what decodes them.
        stored: uint8 [n, bits / 8].
    """

    codes: GradedCodes
    stored: Codes

    def __getitem__(self, rows: NDArray[np.int64]) -> Float32:
        return self.codes.decode(self.stored[rows])


@dataclass(frozen=True, eq=False)
class CodeIndex:
    """Faiss's binary index over codes; its shortlist is rescored by inner product. Searched like a Faiss index.

    Attributes:
        codes: what turns a query into a code.
        binary: Faiss's binary index over the items' codes; its ids are rows.
        vectors: what is scored by row: the vectors themselves, perhaps on disk, or what their codes stand for.
        depth: of the shortlist, at least.
    """

    codes: SignCodes
    binary: faiss.IndexBinary
    vectors: Float32 | DecodedVectors
    depth: int

    @property
    def ntotal(self) -> int:
        """How many items are in it, as Faiss says."""
        return int(self.binary.ntotal)

    def search(
        self, queries: Float32, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[Float32, NDArray[np.int64]]:
        """Scores float32 [q, k] and rows int64 [q, k], best first; -inf and -1 where fewer exist.

        ``allowed`` bool [n]: what may be found; a few are all scored, else the shortlist grows as their share shrinks.

        A query's answer does not depend on the others: each is scored on its own, without BLAS, whose rounding does.
        """
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        if len(queries) == 0 or self.ntotal == 0:
            return scores, rows
        depth, may = max(self.depth, 4 * k), self.ntotal
        if allowed is not None:
            may = int(np.count_nonzero(allowed))
            depth = depth * len(allowed) // max(may, 1)
        if allowed is not None and may <= max(self.depth, 4 * k):
            few = np.flatnonzero(allowed)
            few = few[self.vectors[few].any(axis=1)]  # the others are not in the index
            shortlists = np.tile(few, (len(queries), 1))
        else:
            _, shortlists = self.binary.search(self.codes.encode(queries), min(depth, self.ntotal))
        for place, shortlist in enumerate(shortlists):
            found = np.sort(shortlist[shortlist >= 0])  # by row: what is read from disk is read in order
            found = found if allowed is None else found[allowed[found]]
            score = np.einsum("nd,d->n", self.vectors[found], queries[place])
            best = np.argpartition(-score, k - 1)[:k] if k < len(score) else np.arange(len(score))
            best = best[np.lexsort((found[best], -score[best]))]
            scores[place, : len(best)], rows[place, : len(best)] = score[best], found[best]
        return scores, rows


def read_where_they_lie(index: faiss.Index | faiss.IndexBinary) -> None:
    """Have a mapped index's lists read by whoever searches.

    Faiss would start 32 threads for each search to touch the lists before it does. Once the file is in memory that is
    four fifths of a search's time, and until then the system reads ahead by itself.
    """
    lists = faiss.downcast_InvertedLists(index.invlists) if hasattr(index, "invlists") else None
    if isinstance(lists, faiss.OnDiskInvertedLists):
        lists.prefetch_nthread = 0


def save_code_index(index: CodeIndex, path: Path) -> None:
    """Write what a search needs beside the vectors: the binary index, and how queries are coded in a file beside it."""
    faiss.write_index_binary(index.binary, str(path))
    tensors = {"mean": index.codes.mean, "planes": index.codes.planes, "depth": np.array([index.depth])}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, str(_coder_path(path)))


def load_code_index(path: Path, vectors: Float32) -> CodeIndex:
    """Read what :func:`save_code_index` wrote, the codes memory-mapped where Faiss can.

    Raises:
        ReleaseError: a file is missing or holds something else.
    """
    try:
        binary = faiss.read_index_binary(str(path), MAPPED)
        read_where_they_lie(binary)
        tensors = load_file(str(_coder_path(path)))
        return CodeIndex(SignCodes(tensors["mean"], tensors["planes"]), binary, vectors, int(tensors["depth"][0]))
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise ReleaseError(f"{path}: expected a Faiss index of binary codes: {error}") from error


def _coder_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.codes.safetensors")


def _in_blocks(encode: Callable[[Float32], Codes], vectors: Float32) -> Codes:
    starts = range(0, max(len(vectors), 1), BLOCK)
    return np.concatenate([encode(np.asarray(vectors[start : start + BLOCK], np.float32)) for start in starts])


def _sample(vectors: Float32, bits: int, seed: int) -> Float32:
    if bits < 8 or bits % 8:
        raise ConfigError(f"bits of a code: expected a multiple of 8, came {bits}")
    if len(vectors) == 0:
        raise ConfigError("codes: expected vectors to learn from, came none")
    rng = np.random.default_rng([seed, 0])
    rows = np.sort(rng.choice(len(vectors), min(len(vectors), SAMPLE), replace=False))
    return np.asarray(vectors[rows], np.float32)


def _widths(dim: int, bits: int) -> list[int]:
    """How many hyperplanes come from each rotation: all of it until the last."""
    return [min(dim, bits - start) for start in range(0, bits, dim)]


def _rotation(dim: int, rng: np.random.Generator) -> Float32:
    return np.asarray(np.linalg.qr(rng.normal(size=(dim, dim)))[0], np.float32)


def _principal_axes(sample: Float32) -> tuple[Float32, Float32, NDArray[np.float64]]:
    """Mean, axes [d, d] and the variance along each, widest first."""
    mean = sample.mean(axis=0)
    centred = (sample - mean).astype(np.float64)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(sample))
    return mean, np.asarray(axes[:, ::-1], np.float32), np.maximum(variance[::-1], 0)


def _lloyd(values: Float32, n_levels: int, rounds: int = 20) -> Float32:
    """The levels that approximate ``values`` with the least squared error, ascending float32 [n_levels]."""
    levels = np.quantile(values, (np.arange(n_levels) + 0.5) / n_levels)
    for _ in range(rounds):
        nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
        count = np.bincount(nearest, minlength=n_levels)
        total = np.bincount(nearest, weights=values, minlength=n_levels)
        levels = np.sort(np.where(count > 0, total / np.maximum(count, 1), levels))
    return levels.astype(np.float32)
