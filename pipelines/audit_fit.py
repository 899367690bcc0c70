"""Do a product's picture and words belong together? Judged by what holds in the rest of the catalogue.

The aligner of a release cannot say: it was trained on the wrong pairs too, and has learned them. So a small linear
model is fitted here on other products than those it judges, in closed form, and again for each part of the catalogue.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.histories import Float32

Rows = NDArray[np.int64]
Float64s = NDArray[np.float64]

BLOCK = 8_192  # items compared with the sample at once
REFERENCES = 2_048  # items that a pair's fit is judged against
FOLDS = 5
RIDGES = (0.1, 0.3, 1.0, 3.0)  # of the mean variance; the one that fits the catalogue's own pairs best is taken
FALSE_SHARE = 0.25  # of the products that are called, at most, that may be called wrongly by the estimate
MOST_CALLED = 0.05  # of the catalogue, unless more is wrong with it
FEWEST = 50  # products with both, below which nothing can be told


@dataclass(frozen=True)
class Disagreement:
    """How badly each product's picture and words fit, and where "badly" begins in this catalogue.

    Attributes:
        misfit: float64 [n], share of a sample of the catalogue whose words fit the picture better than its own do, and
            whose pictures fit the words better; the mean of the two. NaN without both. About 0 is right, 0.5 is chance.
        shuffled: float64 [s], the same for pictures beside another product's words.
        threshold: products from here on are called.
        wrong_share: estimate of the products in the catalogue whose picture and words are not of one thing.
        false_share: estimate of those among the called that are right.
        image, text: float32 [n, d], unit norm, zero where absent: both in one space, by a model of those not called.
        unjudged: why nothing could be told, for people to read; "" where the catalogue was judged.
    """

    misfit: Float64s
    shuffled: Float64s
    threshold: float
    wrong_share: float
    false_share: float
    image: Float32
    text: Float32
    unjudged: str = ""

    @property
    def called(self) -> Rows:
        """Rows at or beyond the threshold, worst first."""
        rows = np.flatnonzero(self.misfit >= self.threshold)
        return rows[np.argsort(-self.misfit[rows], kind="stable")]


def judge_fit(pictures: Float32, words: Float32, seed: int = 0) -> Disagreement:
    """Find the products whose picture and words do not belong together.

    A cosine means little by itself: a generic picture fits many words. So each pair is ranked among pairs of the same
    picture with other words, and of the same words with other pictures. Shuffled pairs show what rank a wrong pair
    gets. Beyond the middle of the shuffled, right pairs are rare; so the catalogue's pairs there tell how many are
    wrong in all, and from that how many of those beyond any threshold are right after all.

    Args:
        pictures, words: encodings, float32 [n, d] and [n, d'], zero where absent.
        seed: of folds and samples.
    Source: canonical correlations: Hotelling 1936; out-of-fold judgement of labels: Northcutt et al. 2021, "Confident
        learning"; the estimate of what is wrong: Storey 2002, "A direct approach to false discovery rates".
    """
    both = np.flatnonzero(pictures.any(axis=1) & words.any(axis=1))
    misfit = np.full(len(pictures), np.nan)
    if len(both) < FEWEST:
        has = "1 product has" if len(both) == 1 else f"{len(both)} products have"
        return _unjudged(pictures, f"{has} a picture and words, of at least {FEWEST}")
    rng = np.random.default_rng(seed)
    fold = rng.integers(FOLDS, size=len(both))
    moments = [_moments(pictures, words, both[fold == each]) for each in range(FOLDS)]
    references = rng.choice(both, min(REFERENCES, len(both)), replace=False)
    some = rng.permutation(len(both))[:BLOCK]  # the ridge is chosen on these, the shuffled pairs are of these

    def judged(ridge: float, chosen: Rows, shift: int) -> Float64s:
        """Misfit of the pairs ``chosen`` (positions in both), each by the model of the other folds."""
        out = np.empty(len(chosen))
        for each in range(FOLDS):
            project = _fit(sum_moments([part for other, part in enumerate(moments) if other != each]), ridge)
            mine = np.flatnonzero(fold[chosen] == each)
            rows = both[chosen[mine]]
            out[mine] = _misfit(project, pictures, words, rows, np.roll(rows, shift), references)
        return out

    ridge = min(RIDGES, key=lambda each: float(judged(each, some, 0).mean()))
    misfit[both] = judged(ridge, np.arange(len(both)), 0)
    shuffled = judged(ridge, some, 1)
    if np.median(shuffled) == 0:  # as where nearly all share one picture or one text
        return _unjudged(pictures, "most words fit most pictures equally well")
    threshold, wrong, false = _threshold(misfit[both], shuffled)
    right = both[misfit[both] < threshold]
    project = _fit(_moments(pictures, words, right if len(right) >= FEWEST else both), ridge)
    image, text = project(pictures, words)
    return Disagreement(misfit, shuffled, threshold, wrong, false, image, text)


def _unjudged(pictures: Float32, why: str) -> Disagreement:
    """Nothing is called."""
    unknown, nowhere = np.full(len(pictures), np.nan), np.zeros_like(pictures)
    return Disagreement(unknown, np.zeros(0), np.inf, 0.0, 0.0, nowhere, nowhere, why)


class Moments(NamedTuple):
    """Sums over rows; those of two parts add up to those of both, so leaving a fold out needs no second pass."""

    n: float
    x: Float64s
    y: Float64s
    xx: Float64s
    yy: Float64s
    xy: Float64s


def sum_moments(parts: list[Moments]) -> Moments:
    """Moments of several parts together."""
    total = parts[0]
    for part in parts[1:]:
        total = Moments(*(np.add(a, b) for a, b in zip(total, part)))
    return total


def _moments(pictures: Float32, words: Float32, rows: Rows) -> Moments:
    d, e = pictures.shape[1], words.shape[1]
    total = Moments(0.0, np.zeros(d), np.zeros(e), np.zeros((d, d)), np.zeros((e, e)), np.zeros((d, e)))
    for block in _blocks(rows):
        x, y = pictures[block].astype(np.float64), words[block].astype(np.float64)
        total = sum_moments([total, Moments(len(block), x.sum(axis=0), y.sum(axis=0), x.T @ x, y.T @ y, x.T @ y)])
    return total


Project = Callable[[Float32, Float32], tuple[Float32, Float32]]


def _fit(moments: Moments, ridge: float) -> Project:
    """Regularised canonical correlations → what turns pictures and words into unit vectors of one space."""
    n, mean_x, mean_y = moments.n, moments.x / moments.n, moments.y / moments.n
    white_x = _whitener(moments.xx / n - np.outer(mean_x, mean_x), ridge)
    white_y = _whitener(moments.yy / n - np.outer(mean_y, mean_y), ridge)
    left, correlation, right = np.linalg.svd(white_x @ (moments.xy / n - np.outer(mean_x, mean_y)) @ white_y)
    kept = len(correlation)
    turns = (white_x @ left[:, :kept] * correlation, white_y @ right[:kept].T * correlation)

    def project(pictures: Float32, words: Float32) -> tuple[Float32, Float32]:
        return _turned(pictures, mean_x, turns[0]), _turned(words, mean_y, turns[1])

    return project


def _whitener(covariance: Float64s, ridge: float) -> Float64s:
    loaded = covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    variance, axes = np.linalg.eigh(loaded)
    return np.asarray(axes / np.sqrt(np.maximum(variance, 1e-12)) @ axes.T)


def _turned(vectors: Float32, mean: Float64s, turn: Float64s) -> Float32:
    out = (vectors - mean.astype(np.float32)) @ turn.astype(np.float32)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
    return np.asarray(out * vectors.any(axis=1)[:, None], np.float32)


def _misfit(project: Project, pictures: Float32, words: Float32, shown: Rows, said: Rows, references: Rows) -> Float64s:
    """Of each pair (picture of one row, words of another), how many references fit better; see Disagreement."""
    reference_image, reference_text = project(pictures[references], words[references])
    out = np.empty(len(shown))
    for start in range(0, len(shown), BLOCK):
        block = slice(start, start + BLOCK)
        image, text = project(pictures[shown[block]], words[said[block]])
        fit = np.einsum("nd,nd->n", image, text)[:, None] + 1e-6  # a pair does not beat itself
        better = (image @ reference_text.T > fit).mean(axis=1) + (text @ reference_image.T > fit).mean(axis=1)
        out[block] = better / 2
    return out


def _blocks(rows: Rows) -> Iterator[Rows]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def _threshold(own: Float64s, shuffled: Float64s) -> tuple[float, float, float]:
    """Threshold (above 0: there nothing fits better), share of wrong pairs, share of right ones among those called."""
    middle = float(np.median(shuffled))
    wrong = min(1.0, float((own >= middle).mean() / (shuffled >= middle).mean()))
    best = (np.inf, wrong, 0.0)  # nothing is called
    for threshold in np.unique(np.quantile(shuffled, np.linspace(0.5, 0.02, 49)))[::-1]:
        called = float((own >= threshold).mean())
        false = 1 - min(1.0, wrong * float((shuffled >= threshold).mean()) / called) if called else 0.0
        if threshold == 0 or false > FALSE_SHARE or called > max(MOST_CALLED, 2 * wrong):
            break
        best = (float(threshold), wrong, false)
    return best


def swapped_pairs(image: Float32, text: Float32, called: Rows) -> dict[int, int]:
    """Of the called, those that would fit if two of them changed pictures: row → row, both ways."""
    if len(called) < 2:
        return {}
    fit = image[called] @ text[called].T
    by_picture, by_words = fit.argmax(axis=1), fit.argmax(axis=0)
    return {
        int(called[a]): int(called[b])
        for a, b in enumerate(by_picture.tolist())
        if a != b and by_picture[b] == a and by_words[a] == b and by_words[b] == a
    }
