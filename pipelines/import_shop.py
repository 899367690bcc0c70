"""``recsys import FORM PATH``: a shop's data into the database; see ``recsys/data/importers``."""

import argparse
import sys
from pathlib import Path

from pipelines.config import NIGHTLY, load_paths
from recsys.data.database import open_database
from recsys.data.importers import FORMS, import_shop


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``recsys import``."""
    parser.description = "Import a shop's data. Exit status: 0 all went in, 1 some was rejected, 2 could not run."
    parser.add_argument("form", choices=list(FORMS), help="what the data looks like")
    parser.add_argument("source", type=Path, help="folder (or one file) with the data")
    parser.add_argument(
        "--config",
        type=Path,
        help=f"whose [paths] database and images to use (default: {NIGHTLY}, unless --database names a database)",
    )
    parser.add_argument("--database", help="URL of another database")
    parser.add_argument("--images", type=Path, help="store image paths below this folder relative to it")
    parser.add_argument(
        "--rejects", type=Path, default=Path("var/rejects.jsonl"), help="file for rejects (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="for checking images (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: argparse.Namespace) -> int:
    """Import as the arguments say, print the summary; 0 when all went in, 1 when some was rejected, 2 on a failed read.

    Raises:
        RecsysError: the source is not of this form, or the configuration not one.
    """
    database, images = _destination(args)
    engine = open_database(database)
    try:
        summary = import_shop(
            engine,
            args.source,
            args.form,
            rejects=args.rejects,
            images_root=images,
            threads=args.threads,
            progress=not args.quiet,
        )
    except OSError as error:  # a folder that may not be read, a disk that is full
        print(f"recsys import: {error}", file=sys.stderr)
        return 2
    finally:
        engine.dispose()
    print(summary.describe())
    return summary.exit_status


def _destination(args: argparse.Namespace) -> tuple[str, Path | None]:
    """Database and images folder: what a flag says, then what the configuration does.

    A database named without a configuration is another shop's, so the images folder of the nightly one is not its own:
    images are stored with absolute paths, as they are below no folder that we know.
    """
    if args.config is None and args.database is not None:
        return args.database, args.images
    paths = load_paths(args.config or NIGHTLY)
    return args.database or paths.database, args.images or Path(paths.images)
