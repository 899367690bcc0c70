"""``recsys revoke-key ID``: a key that opens nothing any more."""

import argparse
import sys

from recsys.data.database import current_database
from service.keys import id_of, revoke_api_key
from service.settings import add_config_argument, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``recsys revoke-key``."""
    parser.add_argument("id", metavar="ID", help="of a key, as recsys keys lists them; or the key itself")
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Revoke it; 0, also where it was revoked before.

    Raises:
        ConfigError: there is no such key.
    """
    with current_database(read_settings(args).database) as engine:
        key = revoke_api_key(engine, args.id)
    since = f"{key.revoked_at:%Y-%m-%d %H:%M} UTC"
    sys.stdout.write(f"{id_of(key)} ({key.name}) is revoked since {since}; running services follow within seconds\n")
    return 0
