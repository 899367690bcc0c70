"""Next item in sequences: ``python -m benchmarks.sequences --sequences FILE [--attributes FILE] [--titles FILE]
[--json FILE]``

One line a user, ``user item item …``, oldest first. The last item is the test, the rest is train; users whose last item
nobody took in train are dropped, and lines without an item skipped. The newest 50 items are the history, what a user
has seen is masked, and the whole catalogue is ranked. The files give no times, so an item's place from the end of its
line stands for its day: the night's temporal split then is the leave-last-out protocol, and nothing of the shipped
pipeline is changed or told. PCTM has its published settings on Beauty and Sports_and_Outdoors; elsewhere it chooses
them on train (see pctm.py).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse

from benchmarks import peers
from benchmarks.pctm import best_unseen, log_share, pctm, settings_for
from benchmarks.protocol import OURS, Truth, left_out, measure, measure_all, popularity_segments, score, show
from benchmarks.sequence_files import Files, Sequences, read_attributes, read_sequences, read_titles
from benchmarks.stages import STAGES, called
from benchmarks.workspace import answers_of, fit_night
from recsys.evaluation.metrics import history_segments
from recsys.histories import Int32
from recsys.request import Interaction, Request
from recsys.schema import EVENTS, ITEMS, REVIEWS

K = 12
MEASURES = {"ndcg@10": ("ndcg_at_k", 10), "recall@10": ("recall_at_k", 10), "map@12": ("average_precision_at_k", 12)}
TEST_DAY = datetime(2020, 1, 1, tzinfo=UTC)  # what every line's last item is given as its day
PEERS = ("popular", "PCTM", "EASE", "als", "bpr", "cosine", "bm25")


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
    titles, attributes = read_titles(files.titles, data.item_ids), read_attributes(files.attributes, data.item_ids)
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
    users = np.repeat(np.arange(len(data.train)), [len(line) for line in data.train])
    taken = sparse.csr_matrix((np.ones(len(users)), (users, data.rows)), shape=(len(data.train), n_items))
    if method in ("als", "bpr", "cosine", "bm25"):
        return peers.implicit_model(method, taken, data.users, K, threads=1, repeats=False)
    if method == "EASE":
        return peers.ease(taken, data.users, K, penalty=250.0, min_buyers=1, repeats=False)
    if method == "popular":
        share = log_share(data)
        return best_unseen(lambda some: np.tile(share, (len(data.users[some]), 1)), data, K)
    return pctm(data, settings_for(files.sequences.stem, data), K)


def truth_of(data: Sequences) -> Truth:
    lengths = np.array([len(data.train[user]) for user in data.users.tolist()])
    breakdowns = (history_segments(lengths), popularity_segments(data.buyers[data.targets]))
    return Truth(np.arange(len(data.users) + 1), data.targets, breakdowns=breakdowns)


def as_given(files: Files, path: Path | None, methods: Sequence[str], stages: bool) -> None:
    """The protocol: ours beside the peers."""
    answers = [measure(method, peer, method, files) for method in methods]
    for without in ("", *(_stages(files) if stages else ())):
        answers += measure_all(called(without), ours, files, without)
    rows = score(answers, truth_of(read_sequences(files)), MEASURES, "ndcg@10")
    show(files.sequences.stem, "leave last out, full ranking", rows, path, left_out(answers))


def with_ends_shuffled(files: Files, path: Path | None, methods: Sequence[str]) -> None:
    """Ours beside the best of the peers that read the order, see shuffle_ends()."""
    answers = [measure(method, peer, method, files) for method in methods if method == "PCTM"]
    answers += measure_all(OURS, ours, files)
    rows = score(answers, truth_of(read_sequences(files)), MEASURES, "ndcg@10")
    beside = path.with_suffix(".shuffled.json") if path else None
    shuffled = "the same, each user's last three items shuffled"
    show(files.sequences.stem, shuffled, rows, beside, left_out(answers))


def read_all(files: Files) -> None:
    """Read every file and say what is in them.

    Raises:
        SystemExit: something is wrong with one of them.
    """
    data = read_sequences(files)
    order = "shuffled" if files.shuffled else "as given"
    print(f"{order}: {len(data.train):,} users, {len(data.item_ids):,} items; {len(data.users):,} users are asked")
    if data.skipped:
        print(f"{data.skipped:,} lines without an item were skipped")
    for what, path, read in (("titles", files.titles, read_titles), ("attributes", files.attributes, read_attributes)):
        if path is not None:
            print(f"{what} of {len(read(path, data.item_ids)):,} items")


def _stages(files: Files) -> list[str]:
    """Those that are not all of it here: there are no pictures, and words only where titles are given."""
    missing = {"without image"} | (set() if files.titles else {"without text", "without behaviour"})
    return [stage for stage in STAGES if stage not in missing]


def main() -> None:
    parser = argparse.ArgumentParser(description="Next item in sequences")
    parser.add_argument("--sequences", type=Path, required=True)
    parser.add_argument("--attributes", type=Path, help="JSON: item → attribute codes")
    parser.add_argument("--titles", type=Path, help="CSV with title and p5_id, item_id or item (or the item first)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peers", nargs="*", default=PEERS, choices=PEERS, help="only these peers; none: ours alone")
    parser.add_argument("--stages", action="store_true", help="also nights that lack a part, each a night of its own")
    parser.add_argument("--order", choices=("given", "shuffled", "both"), default="both", help="which tables")
    args = parser.parse_args()
    given = Files(args.sequences, args.attributes, args.titles)
    shuffled = replace(given, shuffled=True)
    for files, other in ((given, "shuffled"), (shuffled, "given")):
        if args.order != other:
            read_all(files)  # of both tables, before hours go into the first
    if args.order != "shuffled":
        as_given(given, args.json, args.peers, args.stages)
    if args.order != "given":
        with_ends_shuffled(shuffled, args.json, args.peers)


if __name__ == "__main__":
    main()
