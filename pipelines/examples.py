"""What the ranker learns from: candidates that retrieval, fitted on earlier events only, really produced."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from recsys.artifacts import Release
from recsys.errors import require_at_least, require_share
from recsys.evaluation.requests import EvaluationSet
from recsys.histories import Float64
from recsys.ranking.features import compute_features
from recsys.ranking.train import Examples
from recsys.recommend import find_candidates, in_batches, n_batches

T = TypeVar("T")


class Progress(Protocol):
    """Shows how far an iteration is."""

    def __call__(self, steps: Iterable[T], label: str, total: int) -> Iterable[T]:
        """``steps`` as they are; there will be ``total`` of them."""
        ...


def no_progress(steps: Iterable[T], label: str, total: int) -> Iterable[T]:
    """A Progress that shows nothing."""
    return steps


@dataclass(frozen=True)
class ExamplesConfig:
    """Which requests the ranker learns from.

    Attributes:
        max_requests: of each time cut.
        negatives: retrieved candidates kept of each request besides the relevant ones, drawn evenly.
        hidden_share: of the items whose past is hidden at a time, for the ranker to learn the order among newcomers.
        hidden_draws: how many such parts are asked about, each at the price of one more fit; 0 leaves it out.
        tower_examples: of the user tower, the newest.
    """

    max_requests: int = 12_000
    negatives: int = 150
    hidden_share: float = 0.1
    hidden_draws: int = 1
    tower_examples: int = 150_000

    def __post_init__(self) -> None:
        require_at_least("examples", self, max_requests=1, negatives=1, hidden_draws=0, tower_examples=1)
        require_share("examples", self, "hidden_share")


def rank_examples(
    release: Release,
    questions: EvaluationSet,
    config: ExamplesConfig,
    seed: int,
    *,
    threads: int = 1,
    progress: Progress = no_progress,
    label: str = "",
    arrivals: Float64 | None = None,
    among: np.ndarray | None = None,
) -> list[Examples]:
    """Candidates of each question with their outcomes; questions whose answer was not retrieved teach nothing.

    Nor does a question without a history, whose answer is not the ranker's to give: see Histories.known.

    ``arrivals`` float64 [n], days since 1970, NaN where unknown: what came after a request was nothing to choose then,
    and would teach that what has neither age nor sales is never wanted. ``among`` bool [n] restricts answers and
    alternatives to these items, as a filter of requests would.

    Returns:
        One Examples for each batch that has any, the same whatever ``threads`` is.
    """

    def of_batch(batch: slice) -> Examples | None:
        rng = np.random.default_rng([seed, batch.start])
        return _examples_of(release, questions, batch, config, rng, arrivals, among)

    batches = in_batches(of_batch, len(questions), threads)
    return [part for part in progress(batches, label, n_batches(len(questions))) if part is not None]


def _examples_of(
    release: Release,
    questions: EvaluationSet,
    batch: slice,
    config: ExamplesConfig,
    rng: np.random.Generator,
    arrivals: Float64 | None,
    among: np.ndarray | None,
) -> Examples | None:
    """Of one batch; None where nothing can be learned."""
    n_items = np.int64(len(release.item_ids))
    histories, candidates = find_candidates(release, questions.requests[batch], among)
    wanted = [
        place * n_items + release.rows[item_id]
        for place, taken in enumerate(questions.relevant[batch])
        for item_id in taken
        if item_id in release.rows
    ]
    request = candidates.request_of
    labels = np.isin(request * n_items + candidates.rows, np.array(wanted, np.int64))
    counts = np.ones(len(candidates), bool) if among is None else among[candidates.rows]
    if arrivals is not None:
        counts &= ~(arrivals[candidates.rows] > histories.requested_at_days[request])
    labels &= histories.known[request] & counts
    teaches = np.bincount(request[labels], minlength=len(histories)) > 0
    features = compute_features(candidates, histories, release.tables, only=teaches)
    if not counts.all():
        labels, request, features = labels[counts], request[counts], features[counts]
    keep = _teaching_rows(labels, request, teaches, config.negatives, rng)
    if len(keep) == 0:
        return None
    sizes = np.bincount(request[keep], minlength=len(histories))
    offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
    return Examples(features[keep], labels[keep].astype(np.int8), offsets)


def _teaching_rows(
    labels: np.ndarray, request: np.ndarray, teaches: np.ndarray, negatives: int, rng: np.random.Generator
) -> np.ndarray:
    """Candidates to keep: of each request that ``teaches``, the relevant ones and ``negatives`` others drawn evenly."""
    n_requests = len(teaches)
    draw = rng.random(len(labels))
    draw[labels] = -1.0  # relevant ones come first
    order = np.lexsort((draw, request))
    sizes = np.bincount(request, minlength=n_requests)
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    positives = np.bincount(request[labels], minlength=n_requests)
    return np.flatnonzero(teaches[request] & (place < (positives + negatives)[request]))
