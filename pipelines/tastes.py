"""Where shoppers and items meet, as of one moment: what the user tower learns from, and its training."""

from typing import TYPE_CHECKING

import numpy as np

from recsys.histories import Float32, Histories, Int32, Interactions
from recsys.retrieval.users import Taste

if TYPE_CHECKING:  # brings torch
    from recsys.alignment.users import UserTowerConfig


def train_taste(
    content: Float32,
    past: Interactions,
    config: "UserTowerConfig",
    *,
    history_limit: int,
    max_examples: int,
    seed: int,
    threads: int,
    progress: bool,
    earlier: Taste | None = None,
) -> Taste:
    """Train tower and items on ``past``; see train_user_tower().

    Args:
        content: float32 [n, c], what is known of each item without any shopper.
        past: everything before the moment, sorted by shopper and time.
        config: of the tower.
        history_limit, max_examples: see next_item_examples().
        seed, threads: of training.
        progress: show a bar.
        earlier: of an earlier moment, to go on from.
    """
    from recsys.alignment.users import train_user_tower

    questions, answers, shoppers = next_item_examples(past, history_limit, max_examples, seed)
    return train_user_tower(
        content,
        questions.offsets,
        questions.rows,
        questions.event_types,
        questions.age_days,
        answers,
        config,
        seed=seed,
        threads=threads,
        progress=progress,
        shoppers=shoppers,
        earlier=earlier,
    )


def next_item_examples(
    past: Interactions, history_limit: int, max_examples: int, seed: int
) -> tuple[Histories, Int32, Int32]:
    """Every event as a question: what its shopper did before → that item.

    Things done at one time are one step: none of them is in another's history, with one exception. Where a shopper's
    first step holds several things there is nothing before them, and each is asked for by the others: what goes
    together in a basket is all that such a shopper tells.

    Args:
        past: sorted by shopper and time.
        history_limit: newest events of a history that are kept.
        max_examples: the newest are kept where there are more.
        seed: of the draw among those of one time.
    Returns:
        The histories, the row that followed each, int32 [q], and whose each was, int32 [q].
    """
    n = len(past)
    order = np.arange(n)
    new_shopper = np.concatenate([[True], past.shoppers[1:] != past.shoppers[:-1]])[:n]
    new_time = new_shopper | np.concatenate([[True], past.time_days[1:] != past.time_days[:-1]])[:n]
    first = np.maximum.accumulate(np.where(new_shopper, order, 0))
    step = np.maximum.accumulate(np.where(new_time, order, 0))
    number = np.cumsum(new_time) - 1
    step_end = np.append(np.flatnonzero(new_time)[1:], n)[number] if n else order
    alone = (step == first) & (step_end == step + 1)
    targets = np.flatnonzero(~alone)
    if len(targets) > max_examples:
        draw = np.random.default_rng(seed).permutation(len(targets))
        newest = np.lexsort((draw, -past.time_days[targets]))[:max_examples]
        targets = np.sort(targets[newest])
    basket = step[targets] == first[targets]
    stop = np.where(basket, step_end[targets], step[targets])
    start = np.maximum(first[targets], stop - history_limit - basket)
    lengths = stop - start
    positions = np.arange(lengths.sum()) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    question = np.repeat(np.arange(len(targets)), lengths)
    others = positions != targets[question]  # of a basket, all but the thing itself
    positions, question = positions[others], question[others]
    asked_at = past.time_days[targets]
    return (
        Histories(
            offsets=np.concatenate([[0], np.cumsum(np.bincount(question, minlength=len(targets)))]).astype(np.int64),
            rows=past.rows[positions],
            event_types=past.event_types[positions],
            age_days=(asked_at[question] - past.time_days[positions]).astype(np.float32),
            requested_at_days=asked_at,
            older_offsets=np.zeros(len(targets) + 1, np.int64),
            older_rows=np.zeros(0, np.int32),
        ),
        past.rows[targets],
        past.shoppers[targets],
    )
