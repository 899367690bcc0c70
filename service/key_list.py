"""``recsys keys``: who has a key, what it opens, and which were revoked."""

import argparse
import sys

from recsys.data.database import current_database
from service.keys import ID_DIGITS, id_of, list_api_keys
from service.settings import add_config_argument, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``recsys keys``."""
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a key, the oldest first; always 0."""
    with current_database(read_settings(args).database) as engine:
        keys = list_api_keys(engine)
    if not keys:
        sys.stdout.write("there is no key yet: recsys create-key makes one\n")
        return 0
    width = max(len("name"), *(len(key.name) for key in keys))
    sys.stdout.write(f"{'id':{ID_DIGITS}}  {'name':{width}}  {'scopes':18}  {'made, UTC':16}  revoked, UTC\n")
    for key in keys:
        moments = ("" if moment is None else f"{moment:%Y-%m-%d %H:%M}" for moment in (key.created_at, key.revoked_at))
        line = "  ".join((id_of(key), f"{key.name:{width}}", f"{' '.join(key.scopes):18}", *moments))
        sys.stdout.write(line.rstrip() + "\n")
    return 0
