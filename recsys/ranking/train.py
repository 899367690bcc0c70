"""train_ranker(): LambdaRank on candidates that retrieval really produced.

No request is held back to say when to stop. With the 1,400 requests of two days of H&M such a watch stopped anywhere
between the 3rd and the 200th tree, where from the 60th to the 300th the order of the next day was equally good; and
what it watched was lost to learning. So all requests are learned from, and a shop with few of them grows fewer trees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, require_at_least
from recsys.histories import Float32, Float64, Int64
from recsys.ranking.features import FEATURES
from recsys.ranking.ranker import Ranker
from recsys.retrieval.places import rank_within
from recsys.retrieval.retrieve import SOURCES, TABLES

MIN_REQUESTS = 20  # fewer teach nothing
TRIAL_REQUESTS = 2_000  # at most, drawn for the trial: two thirds to learn from, one third to be ordered
# Trees are this times the root of the number of requests, at the default learning rate. Of those of H&M, 30, 100, 300
# and 1,400 ordered the next day best with about 30, 60, 100 and 250 trees.
TREES_PER_ROOT_REQUEST = 6


@dataclass(frozen=True)
class RankerConfig:
    """LightGBM's parameters.

    Attributes:
        trees: at most; few requests grow fewer, see TREES_PER_ROOT_REQUEST.
        leaves: of a tree.
        learning_rate: of a tree.
        min_leaf: candidates in a leaf.
        feature_fraction: of the features, drawn for each tree.
        truncation: places of the list that LambdaRank optimises (lambdarank_truncation_level).
    """

    trees: int = 250
    leaves: int = 15
    learning_rate: float = 0.05
    min_leaf: int = 200
    feature_fraction: float = 0.7
    truncation: int = 100

    def __post_init__(self) -> None:
        require_at_least("ranker", self, trees=1, leaves=2, min_leaf=1, truncation=1)
        for name in ("learning_rate", "feature_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"ranker.{name}: expected a share in (0, 1], came {getattr(self, name)}")


@dataclass(frozen=True)
class Examples:
    """Candidates with outcomes, grouped by request.

    Attributes:
        features: float32 [c, len(FEATURES)].
        labels: int8 [c], 1 where the shopper then took the item.
        offsets: int64 [q+1], each request's candidates.
    """

    features: Float32
    labels: npt.NDArray[np.int8]
    offsets: Int64

    def __len__(self) -> int:
        return len(self.offsets) - 1


def draw_examples(examples: Examples, n_requests: int, seed: int) -> Examples:
    """At most so many of the requests, drawn evenly."""
    if len(examples) <= n_requests:
        return examples
    drawn = np.zeros(len(examples), bool)
    drawn[np.random.default_rng(seed).choice(len(examples), n_requests, replace=False)] = True
    return select_examples(examples, drawn)


def select_examples(examples: Examples, requests: npt.NDArray[np.bool_]) -> Examples:
    """Those of the requests where ``requests`` bool [q] is True."""
    sizes = np.diff(examples.offsets)
    rows = np.repeat(requests, sizes)
    offsets = np.concatenate([[0], np.cumsum(sizes[requests])])
    return Examples(examples.features[rows], examples.labels[rows], offsets)


def join_examples(parts: Sequence[Examples]) -> Examples:
    """Examples of several batches or time cuts as one."""
    sizes = np.concatenate([np.diff(part.offsets) for part in parts])
    return Examples(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([[0], np.cumsum(sizes)]),
    )


def train_ranker(examples: Examples, config: RankerConfig, *, seed: int, threads: int) -> Ranker | None:
    """Fit LambdaRank (Burges 2010, MSR-TR-2010-82) to the examples.

    Requests without a relevant candidate carry no gradient; leave them out before (see rank_examples()).

    Args:
        examples: as of earlier times than the release will serve.
        config: see RankerConfig.
        seed: of feature sampling and of the trial's draw.
        threads: of LightGBM.
    Returns:
        The ranker, grown on all of the examples. None where there are fewer than MIN_REQUESTS, or where a trial on at
        most TRIAL_REQUESTS of them, see try_ranker(), is no better than retrieval: its order is the honest fallback.
        Of more requests than the trial has, one learns more than it could: there it must be worse by a standard error.
    """
    if len(examples) < MIN_REQUESTS:
        return None
    # Another draw than tuning's, so that what was chosen by some requests is not judged by the same.
    some = draw_examples(examples, TRIAL_REQUESTS, seed + 1)
    learned, retrieved = try_ranker(some, config, seed=seed + 1, threads=threads)
    gain = learned - retrieved
    handicap = gain.std() / len(gain) ** 0.5 if len(examples) > len(some) else 0.0
    return _grow(examples, config, seed, threads) if gain.mean() + handicap > 0 else None


def try_ranker(examples: Examples, config: RankerConfig, *, seed: int, threads: int) -> tuple[Float64, Float64]:
    """How well a ranker that learned from two thirds of at least three requests orders the others.

    Returns:
        DCG@12 of each of those, float64 [q'], as the ranker orders them and as retrieval did. They are drawn by
        request, never by row, and are the same ones for every configuration, so that two can be compared one by one.
    """
    is_asked = np.zeros(len(examples), bool)
    is_asked[np.random.default_rng(seed + 1).choice(len(examples), len(examples) // 3, replace=False)] = True
    ranker = _grow(select_examples(examples, ~is_asked), config, seed, threads)
    asked = select_examples(examples, is_asked)
    retrieved = asked.features[:, FEATURES.index("rrf_score")]
    return _dcg(asked, ranker.score(asked.features)), _dcg(asked, retrieved)


def _grow(examples: Examples, config: RankerConfig, seed: int, threads: int) -> Ranker:
    """Trees on all of the examples, as many as their number allows."""
    parameters = {
        "objective": "lambdarank",
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": min(config.min_leaf, max(5, len(examples.labels) // 200)),
        "feature_fraction": config.feature_fraction,
        "max_bin": 63,  # as good as 255 here, and half the time
        "lambdarank_truncation_level": config.truncation,
        "monotone_constraints": [_direction(feature) for feature in FEATURES],
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lgb.Dataset(
        examples.features,
        label=examples.labels,
        group=np.diff(examples.offsets),
        feature_name=list(FEATURES),
        free_raw_data=True,
    )
    trees = min(config.trees, round(TREES_PER_ROOT_REQUEST * len(examples) ** 0.5))
    return Ranker(lgb.train(parameters, data, num_boost_round=trees))


def _direction(feature: str) -> int:
    """1 where more can only speak for an item, -1 where more can only speak against it, 0 where we do not know.

    A few days of labels are full of accidents: unconstrained, the trees learn which best seller of Tuesday sold on
    Wednesday. What a source says, and what sells, may only be used in its own sense.
    """
    if feature.endswith("_rank"):
        return -1
    what, _, kind = feature.rpartition("_")
    said = (kind == "score" and what in SOURCES) or (kind in ("share", "newest", "strongest") and what in TABLES)
    return 1 if said or feature.endswith("_from_best") or feature.startswith(("rrf_s", "sales_share_")) else 0


def _dcg(examples: Examples, scores: Float32, k: int = 12) -> Float64:
    """DCG@k of each request, float64 [q], where ``scores`` [c] order its candidates."""
    request = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))
    ranks = rank_within(request, scores)
    gained = np.where((examples.labels > 0) & (ranks <= k), 1 / np.log2(ranks + 1), 0.0)
    return np.bincount(request, weights=gained, minlength=len(examples)).astype(np.float64)
