"""What the night's page shows, gathered from what the night knows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipelines.answers import answer_requests
from pipelines.judge import SHIFTS_SHOWN, Judgement
from pipelines.night_config import NightConfig
from pipelines.sheets import item_cards, make_sheet
from recsys.alignment.model import Aligner
from recsys.artifacts import Release
from recsys.evaluation import metrics
from recsys.evaluation.report import ReportInput, Stage, night_report
from recsys.evaluation.requests import EvaluationSet
from recsys.evaluation.sheet import Sheet
from recsys.recommend import find_candidates
from recsys.retrieval.retrieve import SOURCES

DEPTHS = (5, 10, 20, 50, 100, 200)


def write_night_report(
    release: Release,
    path: Path,
    judgement: Judgement,
    aligner: Aligner,
    items: pl.DataFrame,
    config: NightConfig,
    stages: Sequence[Stage],
    data: Mapping[str, int],
) -> None:
    """Write the page, one file without outside resources.

    It holds timings, so it stands beside the files whose checksums make the version and is not one of them.

    Args:
        release: what is published.
        path: of the page.
        judgement: of its twin, which was fitted before the test window.
        aligner: whose loss is drawn.
        items: ITEMS, for the examples.
        config: of the night.
        stages: that ran, with their costs.
        data: label → number, what went in.
    """
    questions, yardstick = judgement.questions, judgement.yardstick
    main = f"NDCG@{config.evaluation.k}"
    page = ReportInput(
        version=release.manifest.version,
        data_cutoff=release.manifest.data_cutoff,
        created_at=datetime.now(UTC),
        window=f"{questions.start:%-d %B} to {questions.end:%-d %B %Y}",
        stages=stages,
        data=data,
        comparisons=judgement.comparisons,
        catalogue={policy: yardstick.catalogue(rows) for policy, rows in judgement.rows.items()},
        alignment=_alignment_curves(aligner),
        feature_importance={} if release.ranker is None else release.ranker.importance(),
        feature_shifts=judgement.shifts[:SHIFTS_SHOWN],
        recall_by_candidates=recall_by_candidates(judgement.release, questions, config.seed),
        ndcg_by_history={
            policy: metrics.mean_by_segment(scores[main], yardstick.history)
            for policy, scores in judgement.scores.items()
        },
        examples=judged_examples(judgement, items, config),
        config=release.manifest.config,
        notes=[
            "The figures are those of a twin of this release: the same recipe, fitted before the test window. "
            "The release itself has seen that window, and cannot be tested on it.",
            "The ranker is LightGBM LambdaRank, trained on candidates as of earlier times."
            if release.ranker
            else "There is no ranker: too few examples to learn from, or it did no better than the order of retrieval, "
            "which stands.",
            *_tuned(release.manifest.tuning),
        ],
    )
    path.write_text(night_report(page))


def _tuned(tuning: Mapping[str, Any]) -> list[str]:
    """What the night chose for itself, a sentence each."""
    if not tuning:
        return ["Nothing was tuned: every number is as configured."]
    of = f"on {tuning['requests']} requests of the newest label window"
    notes = [
        f"Tuned {of}: {trial['name']} from {trial['before']} to {trial['after']}, "
        f"{trial['ndcg_before']:.4f} → {trial['ndcg_after']:.4f} of what it decides."
        for trial in tuning["changed"]
    ]
    if not tuning["numbers"].get("retrieval.repeats", True):
        notes.append("Hardly anybody took again what they had: nothing of a shopper's own past is a candidate.")
    if tuning["ran_out_of_time"]:
        notes.append("Tuning ran out of its time: what was not reached stayed as it was.")
    return notes or [f"Tuned {of}: none gained more than a standard error over the one that stood."]


def recall_by_candidates(release: Release, questions: EvaluationSet, seed: int) -> dict[str, list[tuple[int, float]]]:
    """Source → (candidates kept, share of what was taken that is among them), over up to 1,000 questions.

    They are drawn by ``seed``: the first ones would be those of the window's first hours.
    """
    drawn = np.random.default_rng(seed).choice(len(questions), min(1000, len(questions)), replace=False)
    chosen = np.sort(drawn).tolist()
    relevant = [questions.relevant[number] for number in chosen]
    _, candidates = find_candidates(release, [questions.requests[number] for number in chosen])
    n_items = np.int64(len(release.item_ids))
    wanted = np.array(
        [
            number * n_items + release.rows[item_id]
            for number, taken in enumerate(relevant)
            for item_id in taken
            if item_id in release.rows
        ],
        np.int64,
    )
    n_wanted = sum(len(taken) for taken in relevant)
    keys = candidates.request_of * n_items + candidates.rows
    ranks = {source: candidates.ranks[:, column] for column, source in enumerate(SOURCES)}
    return {
        source: [(depth, float(np.isin(wanted, keys[rank <= depth]).sum() / max(n_wanted, 1))) for depth in DEPTHS]
        for source, rank in ranks.items()
    }


def _alignment_curves(aligner: Aligner) -> dict[str, list[float]]:
    """The first member's curves; the others differ by their seed only. What was never measured has none."""
    epochs = [each for each in aligner.history if each["member"] == aligner.history[0]["member"]]
    curves = {
        "training loss, nats": [each["loss"] for each in epochs],
        "held-out mean reciprocal rank": [each["quality"] for each in epochs],  # NaN in a catalogue too small for it
    }
    return {measured: values for measured, values in curves.items() if np.isfinite(values).any()}


def judged_examples(judgement: Judgement, items: pl.DataFrame, config: NightConfig) -> list[Sheet]:
    """Shoppers with some history, drawn evenly, not the ones where the release did best; the slates as judged."""
    known = np.flatnonzero(judgement.questions.history_lengths >= 3)
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(known, min(config.evaluation.examples, len(known)), replace=False).tolist()
    requests = [replace(judgement.questions.requests[i], explain=True) for i in chosen]
    slates = answer_requests(judgement.release, requests, judgement.offer)
    cards, images = item_cards(items), Path(config.paths.images)
    return [
        make_sheet(f"Shopper {number + 1}", request, slate, cards, images, bought=judgement.questions.relevant[i])
        for number, (i, request, slate) in enumerate(zip(chosen, requests, slates))
    ]
