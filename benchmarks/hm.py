"""H&M, one real week: ``python -m benchmarks.hm --task basket|next_day|cold [--data DIR] [--json FILE] [--seed N]``

Basket completion, the last day's purchases, and articles that nobody ever bought; the protocols are told in
hm_basket.py, hm_next_day.py and hm_cold.py. "Ours" is always the shipped night with its shipped defaults, asked
through recommend(); the stage rows below it leave a part of the night out.
"""

import argparse
from pathlib import Path

from benchmarks.hm_basket import basket
from benchmarks.hm_cold import cold
from benchmarks.hm_next_day import next_day
from recsys.errors import SchemaError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", choices=("basket", "next_day", "cold"), default="next_day")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/hm"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stages", action="store_true", help="also nights that lack a part, each a night of its own")
    args = parser.parse_args()
    task = {"basket": basket, "cold": cold, "next_day": next_day}[args.task]
    try:
        task(args.data, args.seed, args.json, args.stages)
    except SchemaError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
