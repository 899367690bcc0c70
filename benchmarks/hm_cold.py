"""H&M, cold articles: a tenth of the articles was never bought, and is ranked for the customers who bought them."""

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.hm_sets import MEASURES, Sets, Split, best_rows, encode, ours, read_core, split_of, truth_of
from benchmarks.peers_cornac import visual_model
from benchmarks.protocol import left_out, measure, measure_all, score, show
from benchmarks.stages import STAGES, called
from benchmarks.workspace import Workspace, open_workspace
from recsys.histories import Int32

SHARE = 0.1
# Not cornac's CausalRec: it takes off what a look alone would sell, and of a cold article there is no more than that.
PEERS = ("random", "category popularity", "image only", "text only", "cornac VBPR, pictures")


def cold(data: Path, seed: int, json: Path | None, stages: bool) -> None:
    """Q2c: articles without a past."""
    sets, split = read_cold(open_workspace("hm", data), seed)
    print(
        f"{split.shown.sum():,} of {len(sets.item_ids):,} articles are cold; {len(split.users):,} customers are asked"
    )
    answers = [measure(method, peer_cold, method, data, seed) for method in PEERS]
    for without in ("", *(STAGES if stages else ())):
        answers += measure_all(called(without), ours_cold, data, seed, without)
    rows = score(answers, truth_of(sets, split), MEASURES, "ndcg@10")
    show("H&M", f"cold articles, seed {seed}", rows, json, left_out(answers))


def read_cold(shop: Workspace, seed: int) -> tuple[Sets, Split]:
    sets = read_core(shop)
    rng = np.random.default_rng(seed)
    n_items = len(sets.item_ids)
    shown = np.zeros(n_items, bool)
    shown[rng.choice(n_items, max(1, round(SHARE * n_items)), replace=False)] = True
    return sets, split_of(sets, ~shown[sets.rows], shown, rng)


def ours_cold(data: Path, seed: int, without: str) -> dict[str, Int32]:
    shop = open_workspace("hm", data)
    return ours(shop, *read_cold(shop, seed), seed, without)


def peer_cold(method: str, data: Path, seed: int) -> Int32:
    """One peer: only the cold articles are ranked."""
    shop = open_workspace("hm", data)
    sets, split = read_cold(shop, seed)
    scores: np.ndarray
    taken = sets.matrix(split.train)
    mine = taken[split.users]
    if method == "random":
        scores = np.random.default_rng(seed).random((len(split.users), len(sets.item_ids)))
    elif method == "category popularity":
        scores = _category_popularity(shop, sets, split)
    elif method == "cornac VBPR, pictures":
        vectors = encode(shop, sets, seed).modalities["image"].vectors
        scores = visual_model("VBPR", taken, vectors, split.users, seed, threads=1)
    else:
        modality = encode(shop, sets, seed).modalities[method.removesuffix(" only")]
        units = modality.vectors / np.maximum(np.linalg.norm(modality.vectors, axis=1, keepdims=True), 1e-9)
        scores = (mine @ units / mine.sum(axis=1)) @ units.T
    return best_rows(np.where(split.shown, scores, -np.inf))


def _category_popularity(shop: Workspace, sets: Sets, split: Split) -> np.ndarray:
    """How often the customer bought in an article's category; between equals, how often everybody did."""
    articles = pl.DataFrame({"item_id": sets.item_ids}).join(
        shop.items.select("item_id", "category"), on="item_id", how="left", maintain_order="left"
    )
    category = (articles["category"].fill_null("").rank("dense").cast(pl.Int32) - 1).to_numpy()
    belongs = np.eye(category.max() + 1)[category]
    by_category = sets.matrix(split.train) @ belongs
    everybody = by_category.sum(axis=0)
    preferred = by_category[split.users] + everybody / (everybody.sum() + 1)
    return preferred[:, category]
