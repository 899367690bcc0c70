"""``recsys serve``: bring the database up to date and run the service.

    recsys serve --config pipelines/nightly.toml --port 8000

What a flag does not say comes from ``RECSYS_*`` in the environment (see ``service/settings.py``), then from the config.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import uvicorn
from fastapi import FastAPI

from recsys.data.database import current_database
from service.settings import Settings, add_config_argument, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``recsys serve``."""
    add_config_argument(parser)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (8000)")
    parser.add_argument("--workers", type=int, help="processes (1)")
    parser.add_argument("--as-of", help="answer as if it were this moment (ISO 8601): for data that ends in the past")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; returns the exit status."""
    settings = read_settings(args)
    # Workers are processes that build their own app, so what was decided here reaches them through the environment.
    os.environ.update(_as_environment(settings))
    for library in ("OMP", "OPENBLAS", "MKL"):  # Faiss, LightGBM and numpy read it when they are first imported
        os.environ.setdefault(f"{library}_NUM_THREADS", str(settings.threads))
    with current_database(settings.database):  # that no worker has to
        pass
    with tempfile.TemporaryDirectory(prefix="recsys-metrics-") as folder:
        if settings.workers > 1:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where the workers add up their metrics
        uvicorn.run(
            "service.serve:app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            access_log=False,  # the metrics count; a line a request costs more than some requests
            timeout_graceful_shutdown=10,
        )
    return 0


def app() -> FastAPI:
    """What each worker runs."""
    from service.app import create_app  # here, so that `recsys serve --help` need not load the whole product

    return create_app(Settings())


def _as_environment(settings: Settings) -> Mapping[str, str]:
    chosen: dict[str, Any] = settings.model_dump(exclude_unset=True)
    return {f"RECSYS_{name.upper()}": str(value) for name, value in chosen.items() if value is not None}
