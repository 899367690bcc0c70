"""``recsys demo-shop FOLDER``: write the demonstration shop in the generic import form."""

import argparse
from pathlib import Path

from recsys.data.synthetic import ShopConfig, make_shop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys demo-shop``."""
    parser.add_argument("folder", type=Path, help="where to write items, reviews and events and their pictures")
    parser.add_argument("--items", type=int, default=ShopConfig.n_items)
    parser.add_argument("--users", type=int, default=ShopConfig.n_users)
    parser.add_argument("--seed", type=int, default=ShopConfig.seed)


def run(args: argparse.Namespace) -> int:
    """Write it; always 0."""
    config = ShopConfig(n_items=args.items, n_users=args.users, seed=args.seed)
    shop = make_shop(args.folder, config, progress=True)
    print(f"{args.folder}: {len(shop.items)} items, {len(shop.reviews)} reviews, {len(shop.events)} events")
    return 0
