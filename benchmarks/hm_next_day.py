"""H&M, next day: what the customers of the last day buy, of all articles.

Everything is fitted on the days before the last one with sales (22 September 2020 in the published week) and asked for
the customers of that day, newcomers included: MAP@12 over the whole catalogue, repeats allowed. Sales of articles that
are not described are left out, and counted. Ours is the shipped night with its shipped defaults.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks import peers
from benchmarks.protocol import Truth, left_out, measure, measure_all, score, show
from benchmarks.stages import STAGES, called
from benchmarks.workspace import Workspace, open_workspace, ours
from recsys.evaluation.metrics import history_segments
from recsys.evaluation.requests import build_requests
from recsys.histories import Int32

K = 12
MEASURES = {
    "map@12": ("average_precision_at_k", 12),
    "recall@12": ("recall_at_k", 12),
    "recall@10": ("recall_at_k", 10),
    "ndcg@10": ("ndcg_at_k", 10),
}


def next_day(data: Path, seed: int, json: Path | None, stages: bool) -> None:
    """Q2b: the customers of the last day."""
    shop = open_workspace("hm", data)
    require_days(shop, data)
    test_day = last_day(shop.events)
    if shop.unknown_events:
        print(f"{shop.unknown_events:,} sales of articles that {data} does not describe are left out")
    questions = build_requests(shop.events, test_day, test_day + timedelta(days=1))
    offsets, rows = questions.relevance(shop.item_ids)
    known = questions.history_lengths > 0
    segments = {"with a history": known, "newcomers": ~known}
    truth = Truth(offsets, rows, segments, (history_segments(questions.history_lengths),))
    print(f"{len(questions):,} customers of {test_day:%d %B %Y}, {known.sum():,} of them with a history")
    methods = (
        "popular last day",
        "popular all week",
        "bought before, then popular",
        "item to item",
        "EASE",
        "als",
        "bpr",
        "cosine",
        "bm25",
    )
    answers = [measure(_label(method), peer_next_day, method, data) for method in methods]
    for without in ("", *(STAGES if stages else ())):
        answers += measure_all(called(without), ours_next_day, data, seed, without)
    show("H&M", "next day", score(answers, truth, MEASURES, "map@12"), json, left_out(answers))


def ours_next_day(data: Path, seed: int, without: str) -> dict[str, Int32]:
    """The shipped night up to the test day, asked through recommend()."""
    shop = open_workspace("hm", data)
    test_day = last_day(shop.events)
    requests = build_requests(shop.events, test_day, test_day + timedelta(days=1), limit=K).requests
    return ours(shop, test_day, requests, K, seed, without)


def peer_next_day(method: str, data: Path) -> Int32:
    """One peer; whoever has no history, and every place that a peer leaves empty, gets the last day's best sellers.

    The last day is the last one before the test day that has sales; what it is short of, the week fills.
    """
    shop = open_workspace("hm", data)
    test_day = last_day(shop.events)
    past = shop.events.filter(pl.col("timestamp") < test_day)
    requests = build_requests(shop.events, test_day, test_day + timedelta(days=1)).requests
    row_of = {item_id: row for row, item_id in enumerate(shop.item_ids)}
    week = _best_sellers(past, row_of)
    day = peers.then(_best_sellers(past.filter(pl.col("timestamp") >= last_day(past)), row_of), week, K)
    everybody = np.repeat(week if method == "popular all week" else day, len(requests), axis=0)
    if method.startswith("popular"):
        return everybody
    user_of = {user_id: number for number, user_id in enumerate(past["user_id"].unique().sort().to_list())}
    users = past["user_id"].replace_strict(user_of, return_dtype=pl.Int32).to_numpy()
    items = past["item_id"].replace_strict(row_of, return_dtype=pl.Int32).to_numpy()
    taken = sparse.csr_matrix((np.ones(len(past)), (users, items)), shape=(len(user_of), len(row_of)))
    asked = [(place, user_of[r.user_id]) for place, r in enumerate(requests) if r.user_id in user_of]
    if not asked:
        return everybody
    places, who = np.array(asked).T
    mine = _personal(method, taken, who, past, row_of, user_of)
    out = everybody.copy()
    out[places] = peers.then(mine, everybody[places], K)
    return out


def _personal(
    method: str,
    taken: sparse.csr_matrix,
    who: np.ndarray,
    past: pl.DataFrame,
    row_of: dict[str, int],
    user_of: dict[str, int],
) -> Int32:
    if method == "EASE":
        return peers.ease(taken, who, K, penalty=50.0, min_buyers=4, repeats=True)
    if method in ("als", "bpr", "cosine", "bm25"):
        return peers.implicit_model(method, taken, who, K, threads=2, repeats=True)
    newest_first = (
        past.reverse().group_by("user_id", maintain_order=True).agg(pl.col("item_id").unique(maintain_order=True))
    )
    baskets = {user_of[user_id]: [row_of[i] for i in item_ids] for user_id, item_ids in newest_first.iter_rows()}
    out = np.full((len(who), K), -1, np.int32)
    if method == "bought before, then popular":
        for place, user in enumerate(who.tolist()):
            mine = baskets[user][:K]
            out[place, : len(mine)] = mine
        return out
    # Item to item: what is most often bought by the buyers of the newest things, by plain cosine.
    return peers.implicit_model("cosine", taken, who, K, threads=2, repeats=False)


def _best_sellers(events: pl.DataFrame, row_of: dict[str, int]) -> Int32:
    """Rows int32 [1, K], -1 where fewer articles were sold."""
    best = events.group_by("item_id").len().sort(["len", "item_id"], descending=[True, False]).head(K)
    out = np.full((1, K), -1, np.int32)
    out[0, : len(best)] = [row_of[item_id] for item_id in best["item_id"]]
    return out


def _label(method: str) -> str:
    return {
        "EASE": "EASE λ=50, items with 4 buyers",
        "als": "implicit ALS, 64 factors",
        "bpr": "implicit BPR, 64 factors",
        "cosine": "implicit cosine item-kNN",
        "bm25": "implicit BM25 item-kNN",
        "item to item": "cosine item-kNN, new items only",
    }.get(method, method)


def last_day(events: pl.DataFrame) -> datetime:
    """Midnight (UTC) of the last day with purchases."""
    last = events["timestamp"].max()
    assert isinstance(last, datetime)
    return last.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def require_days(shop: Workspace, data: Path) -> None:
    """Refuse a shop without a day to ask about and two to learn from: the night learns from one what follows another.

    Raises:
        SystemExit: says how many there are.
    """
    days = shop.events["timestamp"].dt.date().n_unique()
    if days < 3:
        raise SystemExit(
            f"{data}: expected sales of known articles on three days at least, came {len(shop.events):,} on {days}, "
            f"and {shop.unknown_events:,} of articles that it does not describe"
        )
