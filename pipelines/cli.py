"""The ``recsys`` command: one subcommand for each thing that people run.

Each subcommand's module offers ``add_arguments(parser)`` and ``run(args) -> int``; it is imported only when asked
for, so that ``recsys import`` does not wait for torch.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError

from recsys.errors import RecsysError

# name → (module, what it does)
COMMANDS = {
    "demo": ("pipelines.demo", "make a shop, run a night, serve it, and show recommendations"),
    "demo-shop": ("pipelines.demo_shop", "write the demonstration shop's files into a folder"),
    "import": ("pipelines.import_shop", "bring a shop's catalogue, reviews and events into the database"),
    "retrain": ("pipelines.retrain", "the night: from the database to a published release"),
    "releases": ("pipelines.releases", "list the releases, and which one is live"),
    "publish": ("pipelines.publish", "make a release live; also the way back to an earlier one"),
    "serve": ("service.serve", "answer storefronts over HTTP"),
    "create-key": ("service.keys", "make an API key for a storefront or a feed"),
    "keys": ("service.key_list", "list the API keys, and which were revoked"),
    "revoke-key": ("service.key_revoke", "let an API key open nothing any more"),
    "prune": ("pipelines.prune", "delete served recommendations older than some days"),
    "evaluate": ("pipelines.evaluate", "offline A/B of two releases on later days"),
    "audit": ("pipelines.audit", "find near duplicates, and pictures that do not fit their words"),
    "sheet": ("pipelines.sheets", "draw shoppers' histories and recommendations"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status of the subcommand, 2 for a failure it expected."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="recsys", description="The recommender a shop runs itself.")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = given[0] if given else ""
    for name, (module, help_text) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text)
        if name == wanted:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    args = parser.parse_args(given)
    try:
        return int(args.run(args))
    except RecsysError as error:
        print(f"recsys {wanted}: {error}", file=sys.stderr)
        return 2
    except DBAPIError as error:
        if isinstance(error, ProgrammingError | IntegrityError | DataError):
            raise  # a mistake of ours: it needs its traceback
        print(f"recsys {wanted}: the database does not answer: {error.orig}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
