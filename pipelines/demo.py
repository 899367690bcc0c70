"""``recsys demo``: everything once, on this machine: a shop, a night, the service, and what it recommends.

The demonstration shop is made here; ``--data hm`` (or amazon, generic) takes a folder of real data instead. Run again,
it keeps what is there: the shop is not imported twice and nothing is encoded twice.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select

from pipelines.config import Paths, add_config_argument, with_paths
from pipelines.contact_sheet import save_contact_sheet
from pipelines.sheets import ItemCards, item_cards, make_sheet
from pipelines.stages import Stages
from recsys.data.database import open_database
from recsys.data.importers import FORMS, import_shop
from recsys.data.load import load_items, load_user_history
from recsys.data.synthetic import make_shop
from recsys.data.tables import Event
from recsys.errors import ConfigError, RecsysError, ReleaseError
from recsys.evaluation.sheet import Sheet
from recsys.request import Interaction, Reason, Request, Slate, SlateItem

PUBLIC_DATA = {"hm": Path("../shared/data/hm"), "amazon": Path("../shared/data/amazon_reviews")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys demo``."""
    parser.add_argument("--data", choices=["shop", *FORMS], default="shop", help="which shop; default: one made here")
    parser.add_argument("--source", type=Path, help="the folder of real data; without a default for generic")
    add_config_argument(parser)
    parser.add_argument("--var", type=Path, default=Path("var"), help="where everything is kept")
    parser.add_argument("--shoppers", type=int, default=4, help="how many shoppers to show")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; 0 when recommendations were shown.

    Raises:
        RecsysError: the data cannot be imported, nothing can be learned from them, or the service refuses the release.
    """
    started = time.perf_counter()
    home = args.var / f"demo-{args.data}"
    source = home / "shop" if args.data == "shop" else args.source or PUBLIC_DATA.get(args.data)
    if source is None:
        raise ConfigError("--source: expected the folder of the shop's data, came none")
    paths = Paths(
        database=f"sqlite:///{home / 'shop.db'}",
        events=str(home / "events"),
        cache=str(args.var / "cache"),
        releases=str(home / "releases"),
        images=str(source),
    )
    config = home / "nightly.toml"  # what every other command then takes as --config
    home.mkdir(parents=True, exist_ok=True)
    config.write_text(with_paths(args.config, paths), encoding="utf-8")
    stages = Stages()
    if args.data == "shop" and not (source / "shop.json").exists():
        with stages.stage("make the demonstration shop"):
            make_shop(source, progress=True)
    engine = open_database(paths.database)
    with stages.stage("import it"):
        form = "generic" if args.data == "shop" else args.data
        summary = import_shop(engine, source, form, rejects=home / "rejects.jsonl", images_root=source)
        print(summary.describe(), file=sys.stderr)
    with stages.stage("the night"):
        from pipelines.night_config import load_config  # loads torch, which importing does not need
        from pipelines.retrain import retrain

        release = retrain(load_config(config))
    with stages.stage("serve and ask"):
        sheet = home / "recommendations.png"
        now = _next_midnight(release.manifest.data_cutoff)
        cards = item_cards(load_items(engine))
        with serving(paths.database, now) as address:
            shoppers = _shoppers(engine, args.shoppers, now)
            sheets = [_ask(address, engine, user_id, cards, source, now) for user_id in shoppers]
        save_contact_sheet(sheets, sheet)
    report = Path(paths.releases) / release.manifest.version / "report.html"
    command = Path(sys.executable).parent / "recsys"
    print(f"\nthe picture: {sheet}\nthe night's report: {report}")
    print(f"to serve it yourself: {command} serve --config {config} --as-of {now:%Y-%m-%dT%H:%M:%SZ}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    return 0


@contextmanager
def serving(database: str, now: datetime) -> Iterator[str]:
    """Run ``recsys serve`` as a process of its own for as long as the block lasts; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"RECSYS_DATABASE": database, "RECSYS_AS_OF": now.isoformat()}
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)  # noqa: S603
        try:
            _wait_until_ready(f"{address}/health/ready", process)
            yield address
        except ReleaseError:  # it says why by itself
            raise
        except Exception:
            log.seek(0)
            print(log.read(), file=sys.stderr)
            raise
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_ready(url: str, process: "subprocess.Popen[Any]", seconds: float = 120.0) -> None:
    """Return when the service says that it is ready.

    Raises:
        ReleaseError: it refused the release: waiting would not help.
        RecsysError: it ended, or did not become ready in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own address
                return
        except urllib.error.HTTPError as error:
            problem = json.load(error)
            if problem["type"] == "urn:recsys:problem:release-refused":
                raise ReleaseError(problem["detail"]) from None
            why = problem["detail"]
        except OSError as error:
            why = str(error)
        if process.poll() is not None:
            raise RecsysError(
                f"the service ended with status {process.returncode} before it was ready; its log is above"
            )
        if time.monotonic() > deadline:
            raise RecsysError(f"the service was not ready after {seconds:.0f} s: {why}")
        time.sleep(0.2)


def _ask(address: str, engine: Engine, user_id: str, cards: ItemCards, images: Path, now: datetime) -> Sheet:
    """Ask the service for one shopper, say the answer in words, and return it for drawing."""
    body = {"placement": "home", "user_id": user_id, "limit": 12, "explain": True}
    question = urllib.request.Request(  # noqa: S310
        f"{address}/v1/recommendations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(question, timeout=30) as answer:  # noqa: S310
        said = json.load(answer)
    history = load_user_history(engine, user_id=user_id, before=now)
    _say(user_id, history, said, cards)
    slate = Slate(
        items=tuple(
            SlateItem(
                item["id"], item["rank"], item["score"] or 0.0, tuple(Reason(**reason) for reason in item["reasons"])
            )
            for item in said["items"]
        ),
        fallback=said["fallback"],
        release=said["release"],
    )
    request = Request(requested_at=now, user_id=user_id, history=history)
    return make_sheet(user_id, request, slate, cards, images)


def _say(user_id: str, history: list[Interaction], said: dict[str, Any], cards: ItemCards) -> None:
    def title(item_id: str) -> str:
        return str(cards.get(item_id, {}).get("title") or item_id)

    print(f"\n{user_id}, after {len(history)} events, lately: " + ", ".join(title(e.item_id) for e in history[-4:]))
    for item in said["items"][:6]:
        why = item["reasons"][0]["text"] if item["reasons"] else ""
        print(f"  {item['rank']:2}. {title(item['id'])}" + (f" ({why})" if why else ""))
    print(f"  [{said['fallback']}, release {said['release']}, {said['took_ms']:.1f} ms]")


def _shoppers(engine: Engine, count: int, now: datetime) -> list[str]:
    """Shoppers with five to thirty events, drawn evenly over their ids, and one whom nobody knows."""
    lively = (
        select(Event.user_id)
        .where(Event.user_id.is_not(None), Event.timestamp < now)
        .group_by(Event.user_id)
        .having(func.count().between(5, 30))
        .order_by(Event.user_id)
    )
    with engine.connect() as connection:
        known = [str(user_id) for user_id in connection.scalars(lively)]
    step = max(1, len(known) // max(count - 1, 1))
    return [*known[::step][: count - 1], "somebody-new"]


def _next_midnight(moment: datetime) -> datetime:
    """When the first request after the night would come, in a log whose days are closed."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
