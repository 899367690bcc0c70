"""H&M purchases as sets: what the protocols that ignore days share, and the shipped night on them.

A set has no order, so everything that a customer took before the question has one and the same time. The ranker learns
from one hidden purchase of each customer, a day later, with everything fitted without it; then that purchase goes back
to the others, the release is fitted anew, and it is asked a day later too: training and serving look alike.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks.protocol import Truth, popularity_segments
from benchmarks.stages import leave_out, workshop_for
from benchmarks.workspace import Workspace, answers_of
from recsys.evaluation.metrics import history_segments
from recsys.histories import Int32, Int64
from recsys.request import Interaction, Request
from recsys.schema import EVENTS

if TYPE_CHECKING:  # they bring torch, which no peer should pay for
    from pipelines.encode import EncodedShop
    from recsys.artifacts import Release

K = 12
MEASURES = {"ndcg@10": ("ndcg_at_k", 10), "recall@10": ("recall_at_k", 10), "map@12": ("average_precision_at_k", 12)}
TAKEN_AT = datetime(2020, 9, 16, tzinfo=UTC)
ASKED_AT = TAKEN_AT + timedelta(days=1)
WINDOW_END = ASKED_AT + timedelta(days=1)
CORE = 5


@dataclass(frozen=True)
class Sets:
    """Distinct (customer, article) pairs, sorted by customer and article.

    Attributes:
        item_ids, user_ids: sorted, of each row and user.
        users: int32 [m], ascending.
        rows: int32 [m].
    """

    item_ids: list[str]
    user_ids: list[str]
    users: Int32
    rows: Int32

    def __len__(self) -> int:
        return len(self.rows)

    def matrix(self, mask: np.ndarray) -> sparse.csr_matrix:
        """Users × items, 1 where ``mask`` has the pair."""
        shape = (len(self.user_ids), len(self.item_ids))
        return sparse.csr_matrix((np.ones(mask.sum()), (self.users[mask], self.rows[mask])), shape=shape)

    def one_each(self, among: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A mask with one random pair of each customer who has any ``among``."""
        places = rng.permutation(np.flatnonzero(among))
        _, first = np.unique(self.users[places], return_index=True)
        mask = np.zeros(len(self), bool)
        mask[places[first]] = True
        return mask


def read_core(shop: Workspace) -> Sets:
    """The iterated 5-core of distinct purchases of articles with an image.

    Raises:
        SystemExit: nothing of it is left.
    """
    pictured = shop.items.filter(pl.col("images").list.len() > 0).select("item_id")
    pictured_pairs = (
        shop.events.filter(pl.col("event_type") == "purchase")
        .select("user_id", "item_id")
        .join(pictured, on="item_id", how="semi")
        .unique()
    )
    pairs = pictured_pairs
    while True:
        kept = pairs
        for column in ("item_id", "user_id"):
            kept = kept.filter(pl.len().over(column) >= CORE)
        if len(kept) == len(pairs):
            break
        pairs = kept
    if pairs.is_empty():
        raise SystemExit(
            f"{shop.paths.images}: expected articles with an image that {CORE} customers bought who bought {CORE} such "
            f"articles; {len(pictured):,} of {len(shop.items):,} articles have an image, and of "
            f"{len(pictured_pairs):,} pairs of a customer and one of these, 0 survive the {CORE}-core"
        )
    pairs = pairs.sort("user_id", "item_id")
    codes = pairs.select(pl.all().rank("dense").cast(pl.Int32) - 1)
    ids = [pairs[column].unique().sort().to_list() for column in ("item_id", "user_id")]
    return Sets(ids[0], ids[1], codes["user_id"].to_numpy(), codes["item_id"].to_numpy())


@dataclass(frozen=True)
class Split:
    """Who is asked what.

    Attributes:
        train: bool [m], pairs that are known when the question is asked.
        inner: bool [m], one pair of ``train`` of each customer: what the ranker learns from.
        users: int32 [q], the customers asked, ascending.
        offsets, rows: what each of them took, int64 [q+1] and int32.
        shown: bool [n], the articles among which the answer is.
    """

    train: np.ndarray
    inner: np.ndarray
    users: Int32
    offsets: Int64
    rows: Int32
    shown: np.ndarray


def split_of(sets: Sets, train: np.ndarray, shown: np.ndarray, rng: np.random.Generator) -> Split:
    """Everything outside ``train`` is asked for, of customers who have something in it."""
    asked = ~train & np.isin(sets.users, sets.users[train])
    users, counts = np.unique(sets.users[asked], return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # A customer of one known article gives no question to learn from: nothing would be left as history.
    many = np.bincount(sets.users[train], minlength=len(sets.user_ids))[sets.users] >= 2
    inner = sets.one_each(train & many, rng)
    return Split(train, inner, users, offsets, sets.rows[asked], shown)


def ours(shop: Workspace, sets: Sets, split: Split, seed: int, without: str = "") -> dict[str, Int32]:
    """The shipped night on train, asked through recommend(): rows int32 [q, K].

    Args:
        shop: the whole shop; its items outside ``sets`` are left out.
        sets, split: see their classes.
        seed: of the night.
        without: one of STAGES, or "" for all of it, which also gives the row without ranker.
    """
    release = _release(shop, sets, split, seed, without)
    return answers_of(release, _requests(sets, split), K, 1, without, split.shown)


def _release(shop: Workspace, sets: Sets, split: Split, seed: int, without: str) -> "Release":
    from pipelines.catalogue import build_catalogue
    from pipelines.encode import align_shop
    from pipelines.night_config import load_config
    from pipelines.recipe import Shop
    from recsys.histories import read_interactions

    config = replace(load_config(Path("pipelines/nightly.toml")), paths=shop.paths, seed=seed)
    config, encoded = leave_out(without, config, encode(shop, sets, seed))
    catalogue = build_catalogue(_items(shop, sets), shop.reviews)
    learning, asking = (
        Shop(catalogue, read_interactions(events, catalogue.item_ids), events)
        for events in (_events(sets, split, hide_inner=True), _events(sets, split, hide_inner=False))
    )
    vectors = align_shop(encoded, learning.interactions, ASKED_AT, config).vectors
    workshop = workshop_for(without)
    taught = workshop(learning, vectors, config.recipe)
    taught.tune([(ASKED_AT, WINDOW_END)], config.pinned)
    ranker = taught.ranked_release([(ASKED_AT, WINDOW_END)], WINDOW_END).ranker
    return replace(workshop(asking, vectors, taught.config).release_at(ASKED_AT), ranker=ranker)


def encode(shop: Workspace, sets: Sets, seed: int) -> "EncodedShop":
    """The frozen encodings of the articles of ``sets``, by row."""
    from pipelines.encode import encode_shop
    from pipelines.night_config import load_config

    config = replace(load_config(Path("pipelines/nightly.toml")), paths=shop.paths, seed=seed)
    return encode_shop(_items(shop, sets), shop.reviews, ASKED_AT, config)


def _items(shop: Workspace, sets: Sets) -> pl.DataFrame:
    return shop.items.join(pl.DataFrame({"item_id": sets.item_ids}), on="item_id", how="semi").sort("item_id")


def _events(sets: Sets, split: Split, hide_inner: bool) -> pl.DataFrame:
    """Train as purchases, all at one time; those of the inner split a day later where they are hidden."""
    places = np.flatnonzero(split.train)
    late = split.inner[places] & hide_inner
    rows = [
        (f"{place}", "purchase", sets.user_ids[user], sets.item_ids[row], ASKED_AT if hidden else TAKEN_AT)
        for place, user, row, hidden in zip(
            places.tolist(), sets.users[places].tolist(), sets.rows[places].tolist(), late.tolist()
        )
    ]
    columns = ["event_id", "event_type", "user_id", "item_id", "timestamp"]
    given = pl.DataFrame(rows, schema={name: EVENTS[name] for name in columns}, orient="row")
    return pl.concat([pl.DataFrame(schema=EVENTS), given], how="diagonal").sort("timestamp", maintain_order=True)


def _requests(sets: Sets, split: Split) -> list[Request]:
    histories: dict[int, list[Interaction]] = {user: [] for user in split.users.tolist()}
    for user, row in zip(sets.users[split.train].tolist(), sets.rows[split.train].tolist()):
        if user in histories:
            histories[user].append(Interaction(sets.item_ids[row], "purchase", TAKEN_AT))
    return [
        Request(
            requested_at=ASKED_AT,
            user_id=sets.user_ids[user],
            history=history,
            limit=K,
            exclude_purchased=True,
        )
        for user, history in histories.items()
    ]


def truth_of(sets: Sets, split: Split) -> Truth:
    """What the asked customers took, and what the plots are drawn over."""
    had = np.bincount(sets.users[split.train], minlength=len(sets.user_ids))[split.users]
    buyers = np.bincount(sets.rows[split.train], minlength=len(sets.item_ids))
    breakdowns = [history_segments(had)]
    if (np.diff(split.offsets) == 1).all():  # else a user has several items, and no number of buyers
        breakdowns.append(popularity_segments(buyers[split.rows]))
    return Truth(split.offsets, split.rows, breakdowns=breakdowns)


def best_rows(scores: np.ndarray) -> Int32:
    """The K best columns of each row of ``scores`` [q, n], int32 [q, K]; ties go to the lower one.

    -1 in a place for which there is none: a score of -inf is that of an article that may not be shown.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    out = np.full((len(scores), K), -1, np.int32)
    out[:, : best.shape[1]] = np.where(np.take_along_axis(scores, best, axis=1) > -np.inf, best, -1)
    return out
