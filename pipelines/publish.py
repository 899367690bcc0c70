"""``recsys publish VERSION``: make a recorded release live; also the way back to an earlier one."""

import argparse

from pipelines.config import add_config_argument, load_paths
from recsys.artifacts import load_release
from recsys.data.database import current_database
from recsys.data.releases import find_release, publish_release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys publish``."""
    parser.add_argument("version", metavar="VERSION", help="of a release; recsys releases lists them")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Publish it; 0.

    Raises:
        ReleaseError: no release of this version is recorded, or it cannot be loaded: a service would refuse it too.
    """
    with current_database(load_paths(args.config).database) as engine:
        load_release(find_release(engine, args.version).path)
        publish_release(engine, args.version)
    print(f"{args.version} is live; running services take it over within seconds")
    return 0
