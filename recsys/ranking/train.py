"""train_ranker(): LambdaRank on candidates that retrieval really produced."""

from collections.abc import Sequence
from dataclasses import dataclass

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

from recsys.histories import Float32, Int64
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
    patience: int = 50
    held_out: float = 0.15


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
    # At least one request to learn from and one to watch, whatever the share.
    n_watched = min(max(round(config.held_out * len(examples)), 1), len(examples) - 1)
    watch = np.zeros(len(examples), bool)
    watch[np.random.default_rng(seed).choice(len(examples), n_watched, replace=False)] = True
    parameters = {
        "objective": "lambdarank",
        "metric": "ndcg",
        "eval_at": [12],
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "min_data_in_leaf": min(config.min_leaf, max(5, len(examples.labels) // 200)),
        "feature_fraction": config.feature_fraction,
        "lambdarank_truncation_level": config.truncation,
        # Normalised, a request whose answer is easy would weigh as much as one that teaches something.
        "lambdarank_norm": False,
        "monotone_constraints": [_direction(feature) for feature in FEATURES],
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    fit, held = _dataset(examples, ~watch), _dataset(examples, watch)
    booster = lgb.train(
        parameters,
        fit,
        num_boost_round=config.trees,
        valid_sets=[held],
        callbacks=[lgb.early_stopping(config.patience, verbose=False)],
    )
    ranker = Ranker(booster, max(booster.best_iteration, 1))
    rows = np.repeat(watch, np.diff(examples.offsets))
    request, labels = np.repeat(np.arange(len(examples)), np.diff(examples.offsets))[rows], examples.labels[rows]
    retrieved = examples.features[rows][:, FEATURES.index("fused_score")]
    learned = ranker.score(examples.features[rows])
    better = _total_dcg(request, learned, labels) > _total_dcg(request, retrieved, labels)
    return ranker if better else None


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


def _total_dcg(request: Int64, scores: Float32, labels: npt.NDArray[np.int8], k: int = 12) -> float:
    """DCG@k summed over requests, for comparing two orders of the same candidates."""
    ranks = rank_within(request, scores)
    hits = (labels > 0) & (ranks <= k)
    return float((1 / np.log2(ranks[hits] + 1)).sum())


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
