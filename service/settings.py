"""What a shop may set about its service, with the defaults that suit one machine."""

import argparse
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.config import load_paths
from recsys.errors import ConfigError
from recsys.request import LONGEST_HISTORY
from service.problems import field_errors, sentence

WRITE_THREADS = 2  # requests of one worker that write at the same time


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment = Annotated[datetime, AfterValidator(_in_utc)]  # UTC where no zone is named, as in every command


class Settings(BaseSettings):
    """Read from ``RECSYS_*`` when it is built, which only the command does; tests pass the values.

    An environment variable is the field's name in capitals: ``RECSYS_DATABASE``, ``RECSYS_REQUIRE_API_KEY``…
    """

    model_config = SettingsConfigDict(env_prefix="RECSYS_", extra="forbid", frozen=True)

    database: str = Field(default="sqlite:///var/shop.db", description="SQLAlchemy URL of the shop's database")
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(default=1, ge=1, description="processes; they share a release by memory mapping")
    # Each may hold a connection, and the pool has 15 for them, for two that write and for four threads beside.
    request_threads: int = Field(default=8, ge=1, le=9, description="requests that one worker answers at the same time")
    threads: int = Field(default=1, ge=1, description="threads of one request's arithmetic")

    require_api_key: bool | None = Field(
        default=None, description="ask for X-API-Key; unset: on every address except a loopback one"
    )
    max_body_bytes: int = Field(default=4_000_000, ge=1_000, description="a longer body is answered with 413")
    max_picture_bytes: int = Field(default=12_000_000, ge=1_000, description="the same of an uploaded picture")

    reload_seconds: float = Field(
        default=2.0, gt=0, description="how often to look for a newly published release, changed stock and API keys"
    )
    history_limit: int = Field(
        default=LONGEST_HISTORY, ge=1, description="how many of a shopper's latest events a request reads"
    )
    as_of: Moment | None = Field(
        default=None, description="answer as if it were this moment (ISO 8601): for a shop whose data ends in the past"
    )
    images: str = Field(default="var/images", description="folder of relative picture paths, as in the configuration")
    late_items: int = Field(
        default=5_000, ge=0, description="items put since the night that are answered with; more wait for the next one"
    )
    slate_queue: int = Field(default=10_000, ge=1, description="slates that may wait to be written; more are dropped")

    def now(self) -> datetime:
        """The moment that recommendations are made for, UTC; the request path itself reads no clock."""
        return self.as_of or datetime.now(UTC)

    @property
    def asks_for_keys(self) -> bool:
        """Whether a request needs an API key: as set, or else unless only this machine can reach the service."""
        return self.require_api_key if self.require_api_key is not None else not _is_loopback(self.host)


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """The flag that :func:`read_settings` reads besides those named like a setting."""
    parser.add_argument("--config", type=Path, help="TOML whose [paths] database names the shop's database")


def read_settings(args: argparse.Namespace) -> Settings:
    """Flags, then environment, then the config file, then the defaults.

    Raises:
        ConfigError: a value is not as expected; the message names it.
    """
    flags = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value is not None}
    paths = load_paths(args.config) if args.config is not None else None
    from_config = {"database": paths.database, "images": paths.images} if paths is not None else {}
    try:
        from_environment = Settings().model_dump(exclude_unset=True)
        return Settings(**{**from_config, **from_environment, **flags})
    except ValidationError as error:
        raise ConfigError(f"settings of the service: {sentence(field_errors(error.errors()))}") from error


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name: it may resolve to anything
        return False
