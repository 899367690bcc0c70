"""Next item in Amazon sequences: ``python -m benchmarks.sequences --sequences FILE [--attributes FILE] [--titles
FILE]``

One line a user, ``user item item …``, oldest first. The last item is the test, the rest is train; users whose last item
nobody took in train are dropped. The newest 50 items are the history, what a user has seen is masked, and the whole
catalogue is ranked. The files give no times, so an item's place from the end of its line stands for its day: the
night's temporal split then is the leave-last-out protocol, and nothing of the shipped pipeline is changed or told.
"""

import argparse
import csv
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks import peers
from benchmarks.protocol import Truth, measure, measure_all, popularity_segments, score, show
from benchmarks.stages import STAGES
from benchmarks.workspace import answers_of, fit_night
from recsys.evaluation.metrics import history_segments
from recsys.histories import PURCHASE, Int32, Interactions
from recsys.request import Interaction, Request
from recsys.retrieval.items import log_transition_weights, transition_counts
from recsys.schema import EVENTS, ITEMS, REVIEWS

K = 10
HISTORY = 50
MEASURES = {"ndcg@10": ("ndcg_at_k", 10), "recall@10": ("recall_at_k", 10), "map@10": ("average_precision_at_k", 10)}
TEST_DAY = datetime(2020, 1, 1, tzinfo=UTC)  # what every line's last item is given as its day
# τ, decay, share of the weight on the newest ten, λ: PCTM's published settings. Other files get those of Beauty.
PCTM = {"Beauty": (11_250.0, 0.6, 1.0, -0.04), "Sports_and_Outdoors": (15_000.0, 0.7, 0.8, 0.0)}
PEERS = ("popular", "PCTM", "EASE", "als", "bpr", "cosine", "bm25")


@dataclass(frozen=True)
class Files:
    """What the command was given."""

    sequences: Path
    attributes: Path | None
    titles: Path | None
    shuffled: bool = False  # shuffle each user's last three items: see shuffle_ends()


@dataclass(frozen=True)
class Sequences:
    """Train lines and test items, by row of the catalogue.

    Attributes:
        item_ids: items of train, in order of the sha256 of their id: the order in which ties are broken.
        train: each user's rows, oldest first.
        users: positions in ``train`` of the users that are asked.
        targets: what each of them took next.
    """

    item_ids: list[str]
    train: list[list[int]]
    users: np.ndarray
    targets: Int32


def read_sequences(files: Files) -> Sequences:
    lines = [line.split()[1:] for line in files.sequences.read_text().splitlines() if line.strip()]
    if files.shuffled:
        lines = shuffle_ends(lines)
    known = {item for line in lines for item in line[:-1]}
    item_ids = sorted(known, key=lambda item: hashlib.sha256(item.encode()).hexdigest())
    row_of = {item: row for row, item in enumerate(item_ids)}
    train = [[row_of[item] for item in line[:-1]] for line in lines]
    asked = [(user, row_of[line[-1]]) for user, line in enumerate(lines) if line[-1] in row_of]
    users, targets = np.array(asked).T
    return Sequences(item_ids, train, users, targets.astype(np.int32))


def shuffle_ends(lines: list[list[str]]) -> list[list[str]]:
    """The last three items of each line in an order drawn with seed 0.

    Reviews of one day keep the catalogue's order in the raw data, and that order is no behaviour: a method that reads
    only this falls here.
    """
    rng = np.random.default_rng(0)
    return [[*line[:-3], *(line[-3:][i] for i in rng.permutation(len(line[-3:])))] for line in lines]


def ours(files: Files, without: str = "") -> dict[str, Int32]:
    """The shipped night, fitted on train and asked through recommend(): rows int32 [q, k].

    ``without`` is one of STAGES, or "" for all of it, which also gives the row without ranker.
    """
    from pipelines.catalogue import build_catalogue
    from pipelines.config import Paths
    from pipelines.encode import encode_shop
    from pipelines.night_config import load_config
    from pipelines.recipe import Shop
    from recsys.data.split import temporal_split
    from recsys.histories import read_interactions

    data = read_sequences(files)
    config = replace(load_config(Path("pipelines/nightly.toml")), paths=Paths(cache="var/cache"))
    items, events = _items(files, data), _events(data)
    catalogue = build_catalogue(items, pl.DataFrame(schema=REVIEWS))
    # Rows of the catalogue are those of ``data``: items stay in its order.
    shop = Shop(catalogue, read_interactions(events, catalogue.item_ids), events)
    split = temporal_split(
        events["timestamp"].min(),
        TEST_DAY - timedelta(days=1),
        replace(config.split, window_days=1.0),
        test_windows=0,
        targets_days=shop.targets_days,
    )
    encoded = encode_shop(items, pl.DataFrame(schema=REVIEWS), TEST_DAY, config)
    release = fit_night(shop, encoded, split, config, without)
    return answers_of(release, [_request(data, user) for user in data.users.tolist()], K, config.threads, without)


def _items(files: Files, data: Sequences) -> pl.DataFrame:
    attributes = json.loads(files.attributes.read_text()) if files.attributes else {}
    titles = {}
    if files.titles:
        with files.titles.open(newline="") as lines:
            titles = {row["p5_id"]: row["title"] for row in csv.DictReader(lines)}
    rows = [
        {
            "item_id": item,
            "title": titles.get(item),
            "in_stock": True,
            "attributes": sorted(f"attribute={code}" for code in attributes.get(item, [])),
            "images": [],
        }
        for item in data.item_ids
    ]
    return pl.DataFrame(rows, schema=ITEMS)


def _events(data: Sequences) -> pl.DataFrame:
    rows = [
        (f"{user}-{place}", "purchase", f"u{user}", data.item_ids[row], TEST_DAY - timedelta(days=len(line) - place))
        for user, line in enumerate(data.train)
        for place, row in enumerate(line)
    ]
    columns = ["event_id", "event_type", "user_id", "item_id", "timestamp"]
    given = pl.DataFrame(rows, schema={name: EVENTS[name] for name in columns}, orient="row")
    return pl.concat([pl.DataFrame(schema=EVENTS), given], how="diagonal").sort("timestamp", maintain_order=True)


def _request(data: Sequences, user: int) -> Request:
    line = data.train[user]
    return Request(
        requested_at=TEST_DAY,
        user_id=f"u{user}",
        history=[
            Interaction(data.item_ids[row], "purchase", TEST_DAY - timedelta(days=len(line) - place))
            for place, row in enumerate(line)
        ],
        limit=K,
        exclude_purchased=True,
    )


def peer(method: str, files: Files) -> Int32:
    """One peer on train: rows int32 [q, k]."""
    data = read_sequences(files)
    n_items = len(data.item_ids)
    lengths = [len(line) for line in data.train]
    users = np.repeat(np.arange(len(data.train)), lengths)
    rows = np.concatenate(data.train).astype(np.int32)
    taken = sparse.csr_matrix((np.ones(len(rows)), (users, rows)), shape=(len(data.train), n_items))
    if method in ("als", "bpr", "cosine", "bm25"):
        return peers.implicit_model(method, taken, data.users, K, threads=1, repeats=False)
    if method == "EASE":
        return peers.ease(taken, data.users, K, penalty=250.0, min_buyers=1, repeats=False)
    popularity = np.bincount(rows, minlength=n_items) + 1.0
    log_share = np.log(popularity / popularity.sum())
    if method == "popular":
        return _best(sparse.csr_matrix((len(data.users), n_items)), log_share, data)
    tau, decay, newest_share, weight = PCTM.get(files.sequences.stem, PCTM["Beauty"])
    days = np.concatenate([np.arange(length) for length in lengths]).astype(float)
    types, pieces = np.full(len(rows), PURCHASE, np.int8), np.ones(len(rows), np.float32)
    walk = Interactions(users.astype(np.int32), rows, types, days, pieces)
    follows = log_transition_weights(
        transition_counts(walk, n_items, max_distance=10, distance_power=0.5), n_items / tau
    )
    weights = _pctm_weights(data, decay, newest_share)
    return _best(weights @ follows, weight * log_share, data)


def _pctm_weights(data: Sequences, decay: float, newest_share: float) -> sparse.csr_matrix:
    """Each asked user's weights over their newest items: a decay with age, some of it kept for what is older."""
    rows, columns, values = [], [], []
    for place, user in enumerate(data.users.tolist()):
        line = data.train[user][-HISTORY:]
        age = np.arange(len(line))[::-1]
        newest = np.where((age < 10) | (newest_share == 1.0), decay**age, 0)
        older = np.where(newest > 0, 0, 1.0)
        weight = newest / newest.sum()
        if older.sum() > 0:
            weight = newest_share * weight + (1 - newest_share) * older / older.sum()
        rows += [place] * len(line)
        columns += line
        values += weight.tolist()
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(data.users), len(data.item_ids)))


def _best(scores: sparse.csr_matrix, everywhere: np.ndarray, data: Sequences) -> Int32:
    out = np.empty((len(data.users), K), np.int32)
    for start in range(0, len(out), 2000):
        block = scores[start : start + 2000].toarray() + everywhere
        for place, user in enumerate(data.users[start : start + 2000].tolist()):
            block[place, data.train[user]] = -np.inf
        out[start : start + 2000] = np.argsort(-block, axis=1, kind="stable")[:, :K]
    return out


def truth_of(data: Sequences) -> Truth:
    lengths = np.array([len(data.train[user]) for user in data.users.tolist()])
    buyers = np.bincount(np.concatenate(data.train), minlength=len(data.item_ids))[data.targets]
    breakdowns = (history_segments(lengths), popularity_segments(buyers))
    return Truth(np.arange(len(data.users) + 1), data.targets, breakdowns=breakdowns)


def as_given(files: Files, path: Path | None, only: tuple[str, ...], stages: bool) -> None:
    """The protocol: ours beside every peer."""
    data = read_sequences(files)
    truth = truth_of(data)
    print(f"{len(data.train):,} users, {len(data.item_ids):,} items; {len(data.users):,} users are asked")
    answers = [measure(method, peer, method, files) for method in PEERS if not only or method in only]
    for without in ("", *(_stages(files) if stages else ())):
        answers += measure_all(ours, files, without)
    rows = score(answers, truth, MEASURES, "ndcg@10")
    show(files.sequences.stem, "leave last out, full ranking", rows, path)


def with_ends_shuffled(files: Files, path: Path | None) -> None:
    """Ours beside the best of the peers that read the order, see shuffle_ends()."""
    mixed = replace(files, shuffled=True)
    data = read_sequences(mixed)
    answers = [measure("PCTM", peer, "PCTM", mixed), *measure_all(ours, mixed)]
    rows = score(answers, truth_of(data), MEASURES, "ndcg@10")
    beside = path.with_suffix(".shuffled.json") if path else None
    show(files.sequences.stem, "the same, each user's last three items shuffled", rows, beside)


def _stages(files: Files) -> list[str]:
    """Those that are not all of it here: there are no pictures, and words only where titles are given."""
    missing = {"without image"} | (set() if files.titles else {"without text", "without behaviour"})
    return [stage for stage in STAGES if stage not in missing]


def main() -> None:
    parser = argparse.ArgumentParser(description="Next item in sequences")
    parser.add_argument("--sequences", type=Path, required=True)
    parser.add_argument("--attributes", type=Path, help="JSON: item → attribute codes")
    parser.add_argument("--titles", type=Path, help="CSV with p5_id and title")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peers", nargs="*", default=(), help="only these peers")
    parser.add_argument("--stages", action="store_true", help="also nights that lack a part, each a night of its own")
    parser.add_argument("--order", choices=("given", "shuffled", "both"), default="both", help="which tables")
    args = parser.parse_args()
    files = Files(args.sequences, args.attributes, args.titles)
    if args.order != "shuffled":
        as_given(files, args.json, tuple(args.peers), args.stages)
    if args.order != "given":
        with_ends_shuffled(files, args.json)


if __name__ == "__main__":
    main()
