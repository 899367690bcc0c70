"""H&M, basket completion: of each customer one random purchase is hidden, and found among all articles of the core."""

from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.hm_sets import MEASURES, K, Sets, Split, best_rows, encode, ours, read_core, split_of, truth_of
from benchmarks.peers_cornac import MODELS, visual_model
from benchmarks.protocol import left_out, measure, measure_all, score, show
from benchmarks.stages import STAGES, called
from benchmarks.workspace import Workspace, open_workspace
from recsys.histories import Int32

PEERS = {
    "popular": "popularity",
    "co-purchase": "co-purchase cosine",
    "EASE": "EASE λ=50",
    "als": "implicit ALS, 64 factors",
    "bpr": "implicit BPR, 64 factors",
    "bm25": "implicit BM25 item-kNN",
    **{name: f"cornac {name}, pictures" for name in MODELS},
}


def basket(data: Path, seed: int, json: Path | None, stages: bool) -> None:
    """Q2a: one hidden article of each customer."""
    sets, split = read_basket(open_workspace("hm", data), seed)
    print(f"{len(sets):,} pairs, {len(sets.user_ids):,} customers, {len(sets.item_ids):,} articles")
    answers = [measure(label, peer_basket, method, data, seed) for method, label in PEERS.items()]
    for without in ("", *(STAGES if stages else ())):
        answers += measure_all(called(without), ours_basket, data, seed, without)
    rows = score(answers, truth_of(sets, split), MEASURES, "ndcg@10")
    show("H&M", f"basket completion, seed {seed}", rows, json, left_out(answers))


def read_basket(shop: Workspace, seed: int) -> tuple[Sets, Split]:
    sets = read_core(shop)
    rng = np.random.default_rng(seed)
    test = sets.one_each(np.ones(len(sets), bool), rng)
    return sets, split_of(sets, ~test, np.ones(len(sets.item_ids), bool), rng)


def ours_basket(data: Path, seed: int, without: str) -> dict[str, Int32]:
    shop = open_workspace("hm", data)
    return ours(shop, *read_basket(shop, seed), seed, without)


def peer_basket(method: str, data: Path, seed: int) -> Int32:
    """One peer on train; what a customer has is masked."""
    shop = open_workspace("hm", data)
    sets, split = read_basket(shop, seed)
    taken = sets.matrix(split.train)
    if method == "EASE":
        return peers.ease(taken, split.users, K, penalty=50.0, min_buyers=1, repeats=False)
    if method in ("als", "bpr", "bm25"):
        return peers.implicit_model(method, taken, split.users, K, threads=1, repeats=False)
    mine, buyers = taken[split.users], np.asarray(taken.sum(axis=0)).ravel()
    scores: np.ndarray
    if method in MODELS:
        vectors = encode(shop, sets, seed).modalities["image"].vectors
        scores = visual_model(method, taken, vectors, split.users, seed, threads=1)
    elif method == "popular":
        scores = np.tile(buyers, (len(split.users), 1))
    else:
        weights = (taken.T @ taken).toarray() / np.sqrt(np.maximum(np.outer(buyers, buyers), 1))
        np.fill_diagonal(weights, 0)
        scores = mine @ weights
    scores[mine.nonzero()] = -np.inf
    return best_rows(scores)
