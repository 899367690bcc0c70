"""train_ranker(): LambdaRank on candidates that retrieval really produced."""

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, require_at_least
from recsys.histories import Float32, Float64, Int64
from recsys.ranking.features import FEATURES
from recsys.ranking.ranker import Ranker
from recsys.retrieval.retrieve import SOURCES, TABLES, rank_within


@dataclass(frozen=True)
class RankerConfig:
    """LightGBM's parameters, and how many requests it sees.

    Attributes:
        trees: at most; early stopping on held-out requests usually ends sooner.
        leaves: of a tree.
        learning_rate: of a tree.
        min_leaf: candidates in a leaf.
        feature_fraction: of the features, drawn for each tree.
        truncation: places of the list that LambdaRank optimises (lambdarank_truncation_level).
        patience: trees without progress on the held-out requests before it stops.
        held_out: share of requests that early stopping watches; they are drawn by request, never by row.
    """

    trees: int = 250
    leaves: int = 15
    learning_rate: float = 0.05
    min_leaf: int = 200
    feature_fraction: float = 0.7
    truncation: int = 100
    patience: int = 100
    held_out: float = 0.15

    def __post_init__(self) -> None:
        require_at_least("ranker", self, trees=1, leaves=2, min_leaf=1, truncation=1, patience=1)
        for name in ("learning_rate", "feature_fraction", "held_out"):
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
    sizes = np.diff(examples.offsets)
    rows = np.repeat(drawn, sizes)
    return Examples(examples.features[rows], examples.labels[rows], np.concatenate([[0], np.cumsum(sizes[drawn])]))


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
        seed: of feature sampling and of the held-out draw.
        threads: of LightGBM.
    Returns:
        The ranker; None where there are fewer than 20 requests to learn from, or where it orders the held-out ones no
        better than retrieval did: the order of retrieval is the honest fallback.
    """
    if len(examples) < 20:
        return None
    watch = _draw_watched(len(examples), config.held_out, seed)
    ranker = _grow(examples, ~watch, watch, config, seed, threads)
    rows = np.repeat(watch, np.diff(examples.offsets))
    request, labels = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))[rows], examples.labels[rows]
    retrieved = examples.features[rows][:, FEATURES.index("fused_score")]
    learned = ranker.score(examples.features[rows])
    better = _dcg(request, learned, labels).sum() > _dcg(request, retrieved, labels).sum()
    return ranker if better else None


def try_ranker(examples: Examples, config: RankerConfig, *, seed: int, threads: int) -> Float64:
    """How well a ranker of this configuration orders requests that it did not see: DCG@12 of each, float64 [q'].

    A third of the requests is asked and another part of ``held_out`` is watched by early stopping; the same ones for
    every configuration, so that two of them can be compared request by request.
    """
    asked = _draw_watched(len(examples), 1 / 3, seed + 1)
    watch = ~asked & _draw_watched(len(examples), config.held_out, seed)
    ranker = _grow(examples, ~asked & ~watch, watch, config, seed, threads)
    rows = np.repeat(asked, np.diff(examples.offsets))
    request = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))[rows]
    gained = _dcg(request, ranker.score(examples.features[rows]), examples.labels[rows])
    of_request: Float64 = np.bincount(request, weights=gained, minlength=len(examples)).astype(np.float64)[asked]
    return of_request


def _draw_watched(n_requests: int, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """A mask of drawn requests: at least one in it and one outside, whatever the share."""
    n_watched = min(max(round(share * n_requests), 1), n_requests - 1)
    watch = np.zeros(n_requests, bool)
    watch[np.random.default_rng(seed).choice(n_requests, n_watched, replace=False)] = True
    return watch


def _grow(
    examples: Examples,
    fit: npt.NDArray[np.bool_],
    watch: npt.NDArray[np.bool_],
    config: RankerConfig,
    seed: int,
    threads: int,
) -> Ranker:
    """Trees on the requests of ``fit``, as many as order those of ``watch`` best."""
    parameters = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [12],
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
    booster = lgb.train(
        parameters,
        _dataset(examples, fit),
        num_boost_round=config.trees,
        valid_sets=[_dataset(examples, watch)],
        callbacks=[lgb.early_stopping(config.patience, verbose=False)],
    )
    return Ranker(booster, max(booster.best_iteration, 1))


def _direction(feature: str) -> int:
    """1 where more can only speak for an item, -1 where more can only speak against it, 0 where we do not know.

    A few days of labels are full of accidents: unconstrained, the trees learn which best seller of Tuesday sold on
    Wednesday. What a source says, and what sells, may only be used in its own sense.
    """
    if feature.endswith("_rank"):
        return -1
    said = (
        feature == "fused_score"
        or feature.removesuffix("_score") in SOURCES
        or feature.removesuffix("_share") in TABLES
    )
    return 1 if said or feature.startswith("sales_share_") else 0


def _dcg(request: Int64, scores: Float32, labels: npt.NDArray[np.int8], k: int = 12) -> Float64:
    """What each candidate adds to its request's DCG@k, float64 [c]; for comparing two orders of the same candidates."""
    ranks = rank_within(request, scores)
    hits: Float64 = np.where((labels > 0) & (ranks <= k), 1 / np.log2(ranks + 1), 0.0)
    return hits


def _dataset(examples: Examples, requests: npt.NDArray[np.bool_]) -> lgb.Dataset:
    sizes = np.diff(examples.offsets)
    rows = np.repeat(requests, sizes)
    return lgb.Dataset(
        examples.features[rows],
        label=examples.labels[rows],
        group=sizes[requests],
        feature_name=list(FEATURES),
        free_raw_data=True,
    )
