"""What the ranker learns of items without a past: some items' past is hidden, as if they had just come.

Whoever took an item in a label window mostly took one that others had taken before, so a ranker that sees only such
windows knows nothing of the order among items that nobody took yet, and guesses by what their missing counts look
like. Here the same window is asked again of a release that never saw a drawn part of the items; only those count, as
answers and as the alternatives to them, so that nothing is learned of new against old.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import numpy as np
import numpy.typing as npt

from pipelines.catalogue import Catalogue
from recsys.evaluation.requests import EvaluationSet
from recsys.histories import days_since_epoch


def draw_newcomers(
    catalogue: Catalogue, questions: EvaluationSet, share: float, draws: int, seed: int
) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of items, bool [n], to be hidden one after another; disjoint, each a ``share`` of the catalogue.

    Nothing is drawn where none of the questions would be left with an answer.
    """
    wanted = {item_id for relevant in questions.relevant for item_id in relevant}
    order = np.random.default_rng(seed).permutation(len(catalogue))
    size = max(1, round(share * len(catalogue)))
    for number in range(draws):
        hidden = np.zeros(len(catalogue), bool)
        hidden[order[number * size : (number + 1) * size]] = True
        if any(catalogue.item_ids[row] in wanted for row in np.flatnonzero(hidden)):
            yield hidden


def hide_past(catalogue: Catalogue, hidden: npt.NDArray[np.bool_], as_of: datetime) -> Catalogue:
    """The same catalogue with the ``hidden`` items arriving just at ``as_of``, where their arrival is known.

    Nobody has reviewed them: a count of reviews would tell which of them have sold.
    """
    known = hidden & ~np.isnan(catalogue.created_at_days)
    kept = ~hidden[catalogue.review_rows]
    return replace(
        catalogue,
        created_at_days=np.where(known, days_since_epoch(as_of), catalogue.created_at_days),
        review_rows=catalogue.review_rows[kept],
        review_ratings=catalogue.review_ratings[kept],
        review_days=catalogue.review_days[kept],
    )


def questions_about(questions: EvaluationSet, item_ids: set[str]) -> EvaluationSet:
    """The questions that some of the items answer, which are unknown to every history."""
    requests, relevant = [], []
    for request, taken in zip(questions.requests, questions.relevant):
        mine = [item_id for item_id in taken if item_id in item_ids]
        if mine:
            past = tuple(event for event in request.history if event.item_id not in item_ids)
            requests.append(replace(request, history=past))
            relevant.append(mine)
    return replace(questions, requests=requests, relevant=relevant)
