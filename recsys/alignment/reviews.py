"""Many reviews, one vector an item: what reviewers say, weighted by how much each of them counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.alignment.modality import Modality
from recsys.errors import SchemaError, require_at_least

NEUTRAL_RATING = 3.0  # stands in where none was given


@dataclass(frozen=True)
class ReviewConfig:
    """How much a review counts; 0 switches a weight off, and all of them off is the plain mean."""

    helpfulness: float = 1.0  # exponent on 1 + ln(1 + helpful votes): 0 votes 1.0, 10 votes 3.4, 100 votes 5.6
    rating: float = 0.5  # exponent on rating / 3: what a pleased buyer describes is what the item is
    half_life_days: float = 730.0  # a review this old counts half; 0: age does not matter

    def __post_init__(self) -> None:
        require_at_least("reviews", self, helpfulness=0, rating=0, half_life_days=0)


def weigh_reviews(
    rating: NDArray[np.float32], helpful_votes: NDArray[np.int32], age_days: NDArray[np.float32], config: ReviewConfig
) -> NDArray[np.float64]:
    """The weight of each review, positive.

    w = (1 + ln(1 + helpful_votes))^helpfulness · (rating / 3)^rating_exponent · 2^(−age_days / half_life_days)

    with a rating of 3 where none was given (NaN), negative votes taken as none and a future review taken as today's.

    Args:
        rating: 1 to 5, NaN where none was given, float32 [r].
        helpful_votes: int32 [r].
        age_days: days from the review to the night, float32 [r]; NaN counts as 0.
        config: the exponents and the half-life.

    >>> config = ReviewConfig(helpfulness=1, rating=1, half_life_days=100)
    >>> weigh_reviews(np.float32([3, 1.5]), np.int32([0, 0]), np.float32([0, 100]), config).tolist()
    [1.0, 0.25]
    """
    votes = np.maximum(helpful_votes, 0).astype(np.float64)
    stars = np.clip(np.nan_to_num(rating.astype(np.float64), nan=NEUTRAL_RATING), 1.0, 5.0)
    age = np.maximum(np.nan_to_num(age_days.astype(np.float64), nan=0.0), 0.0)
    decay = np.exp2(-age / config.half_life_days) if config.half_life_days else np.ones(len(age))
    weights = (1 + np.log1p(votes)) ** config.helpfulness * (stars / NEUTRAL_RATING) ** config.rating * decay
    # Where an item's reviews are all very old, their proportions must survive: never exactly zero.
    return np.asarray(np.maximum(weights, 1e-30), dtype=np.float64)


def pool_reviews(
    vectors: NDArray[np.float32],
    item_rows: NDArray[np.int32],
    n_items: int,
    rating: NDArray[np.float32],
    helpful_votes: NDArray[np.int32],
    age_days: NDArray[np.float32],
    config: ReviewConfig,
) -> Modality:
    """Pool review encodings per item: the weighted mean of their unit vectors, brought back to unit norm.

    Args:
        vectors: encodings of the reviews, float32 [r, d]; a zero row (a review without words) is passed over.
        item_rows: which item each review is of, int32 [r]; −1 (an item no longer sold) is passed over.
        n_items: how many rows to return.
        rating, helpful_votes, age_days: see :func:`weigh_reviews`, which gives the weights.
        config: see :class:`ReviewConfig`.

    Returns:
        Modality of n_items rows; present where an item has at least one review with words. The order of the reviews of
        an item matters only to the rounding of float64.

    Raises:
        SchemaError: lengths differ, or a row is not below ``n_items``.
    """
    lengths = {len(vectors), len(item_rows), len(rating), len(helpful_votes), len(age_days)}
    if len(lengths) != 1 or vectors.ndim != 2:
        raise SchemaError(f"pool_reviews: expected one length for all columns, came {sorted(lengths)}")
    if len(item_rows) and item_rows.max() >= n_items:
        raise SchemaError(f"pool_reviews: expected item rows below {n_items}, came {item_rows.max()}")
    norms = np.linalg.norm(vectors, axis=1)
    said = np.flatnonzero((norms > 0) & (item_rows >= 0))
    said = said[np.argsort(item_rows[said], kind="stable")]
    pooled = np.zeros((n_items, vectors.shape[1]), np.float32)
    present = np.zeros(n_items, bool)
    if len(said):
        weights = weigh_reviews(rating[said], helpful_votes[said], age_days[said], config) / norms[said]
        rows, starts = np.unique(item_rows[said], return_index=True)
        sums = np.add.reduceat(vectors[said] * weights[:, None], starts, axis=0)
        length = np.linalg.norm(sums, axis=1)
        meant = length > 0  # reviews that cancel each other out exactly say nothing
        pooled[rows[meant]] = (sums[meant] / length[meant, None]).astype(np.float32)
        present[rows[meant]] = True
    return Modality(pooled, present)
