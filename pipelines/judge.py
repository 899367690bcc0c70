"""Ask a release the questions of a test window, beside the two baselines, and hold every answer to one yardstick."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.answers import Arrivals, Bool, answer_rows, on_offer
from pipelines.baselines import item_to_item, popularity
from recsys.artifacts import Release
from recsys.evaluation.compare import Comparison
from recsys.evaluation.metrics import PerUser
from recsys.evaluation.requests import EvaluationSet
from recsys.evaluation.yardstick import Yardstick, build_yardstick, compare_policies
from recsys.histories import Float32, Int32, Interactions
from recsys.ranking.features import FEATURES
from recsys.ranking.shift import FeatureShift, draw_rows, feature_shift
from recsys.recommend import in_batches, score_inputs
from recsys.request import Request

RELEASE = "release"  # what the release is called among the policies
# Whose candidates are compared with what the ranker learned from, and how many of each are kept on average.
SHIFT_REQUESTS, SHIFT_ROWS = 500, 200
SHIFTS_SHOWN = 10  # the largest, in manifest and report


@dataclass(frozen=True)
class Judgement:
    """How a release did on its test window.

    Attributes:
        release: the one that was judged.
        questions: of the test window.
        offer: what it may show, bool [n], from on_offer().
        yardstick: what all policies were held to.
        rows: policy → recommended rows, int32 [q, k].
        scores: policy → metric → per-user values; the metric to decide on comes first.
        comparisons: baseline → metric → the release compared with it.
        shifts: between what its ranker learned from and what it was then shown; none without a ranker.
    """

    release: Release
    questions: EvaluationSet
    offer: Bool
    yardstick: Yardstick
    rows: Mapping[str, Int32]
    scores: Mapping[str, Mapping[str, PerUser]]
    comparisons: Mapping[str, Mapping[str, Comparison]]
    shifts: Sequence[FeatureShift] = ()

    @property
    def means(self) -> dict[str, dict[str, float]]:
        """Policy → metric → mean over the users for whom it is defined; a metric that nobody has is left out."""
        return {
            policy: {name: float(np.nanmean(values)) for name, values in scores.items() if not np.isnan(values).all()}
            for policy, scores in self.scores.items()
        }


def recommended_rows(
    release: Release, requests: Sequence[Request], k: int, threads: int = 1, available: Bool | None = None
) -> Int32:
    """What ``release`` answers, as its own rows, int32 [q, k], -1 in an empty place; see answer_rows()."""
    return answer_rows(release, requests, k, available, threads=threads)


def served_features(release: Release, questions: EvaluationSet, offer: Bool, seed: int, threads: int = 1) -> Float32:
    """What recommend() shows the ranker, of a draw of the questions: float32 [c, len(FEATURES)], c at most 100,000.

    Candidates of requests with a known past alone, since it orders no others, and of what is on ``offer``.
    """
    drawn = np.random.default_rng(seed).choice(len(questions), min(SHIFT_REQUESTS, len(questions)), replace=False)
    requests = [questions.requests[number] for number in np.sort(drawn).tolist()]

    def of_batch(batch: slice) -> Float32:
        histories, candidates, features = score_inputs(release, requests[batch], offer)
        ordered = histories.known[candidates.request_of] & offer[candidates.rows]
        return draw_rows(features[ordered], SHIFT_ROWS * int(histories.known.sum()), seed)

    nothing = np.empty((0, len(FEATURES)), np.float32)
    return np.concatenate([nothing, *in_batches(of_batch, len(requests), threads)])


def judge(
    release: Release,
    questions: EvaluationSet,
    past: Interactions,
    arrivals: Arrivals,
    k: int,
    seed: int,
    threads: int = 1,
    learned: Sequence[Float32] = (),
) -> Judgement:
    """The release and the baselines on the same questions.

    Args:
        release: fitted on events before the questions' window only.
        questions: of the test window.
        past: the events before it, for novelty.
        arrivals: of the catalogue: what came after the release's data end, it does not show.
        k: places that count.
        seed: of the bootstrap.
        threads: that answer.
        learned: the features that its ranker learned from, see Workshop.learned_features().
    """
    yardstick = build_yardstick(
        questions,
        release.item_ids,
        np.bincount(past.taken.rows, minlength=len(release.item_ids)),
        np.asarray(release.retrieval.embeddings),
        release.tables.created_at_days,
        k,
    )
    requests, offer = questions.requests, on_offer(release, arrivals)
    rows = {
        "popularity": popularity(release, requests, k),
        "item to item": item_to_item(release, requests, k),
        RELEASE: recommended_rows(release, requests, k, threads, offer),
    }
    scores = {policy: yardstick.per_user(each) for policy, each in rows.items()}
    comparisons = {
        policy: compare_policies(theirs, scores[RELEASE], seed=seed)
        for policy, theirs in scores.items()
        if policy != RELEASE
    }
    shifts: list[FeatureShift] = []
    if release.ranker is not None and len(learned):
        shifts = feature_shift(learned, served_features(release, questions, offer, seed, threads))
    return Judgement(release, questions, offer, yardstick, rows, scores, comparisons, shifts)
