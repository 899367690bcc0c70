"""``recsys prune --older-than DAYS``: forget recommendations that were served long ago.

Every answer of the service is a row in ``recommendations``, and nothing else deletes one. No night and no request reads
them; what goes is what an analyst could count of those days. Events stay.
"""

import argparse
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, delete, select

from pipelines.config import add_config_argument, load_paths
from recsys.data.database import current_database
from recsys.data.tables import Recommendation

BATCH_ROWS = 5_000  # in one transaction: a service that writes meanwhile waits for one of these at most
MOST_DAYS = 36_500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys prune``."""
    parser.add_argument(
        "--older-than", type=_days, required=True, metavar="DAYS", help="delete what was served more days ago than this"
    )
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Delete them and print how many; always 0. May be killed and run again."""
    before = datetime.now(UTC) - timedelta(days=args.older_than)
    with current_database(load_paths(args.config).database) as engine:
        deleted = prune(engine, before)
    print(f"{deleted:,} recommendations from before {before:%Y-%m-%d %H:%M} UTC were deleted")
    return 0


def prune(engine: Engine, before: datetime, batch_rows: int = BATCH_ROWS) -> int:
    """Delete the recommendations requested before ``before``, so many rows at a time; returns how many."""
    old = select(Recommendation.recommendation_id).where(Recommendation.requested_at < before).limit(batch_rows)
    deleted, last = 0, batch_rows
    while last == batch_rows:
        with engine.begin() as connection:
            last = connection.execute(delete(Recommendation).where(Recommendation.recommendation_id.in_(old))).rowcount
        deleted += last
    return deleted


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"expected whole days, 1 to {MOST_DAYS}, came {text!r}")
    return int(text)
