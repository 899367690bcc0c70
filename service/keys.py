"""API keys: made here, kept only as hashes, compared in constant time.

recsys create-key storefront --scope read --config pipelines/nightly.toml
"""

import argparse
import hashlib
import hmac
import secrets
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Engine, insert, select, update
from sqlalchemy.orm import Session

from recsys.data.database import current_database
from recsys.data.tables import ApiKey
from recsys.errors import ConfigError
from service.settings import add_config_argument, read_settings

SCOPES = ("read", "write", "admin")  # storefront; events and catalogue; everything
PREFIX = "rk_"  # of every key
ID_DIGITS = 12  # a key is called by so many of its hash's first digits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of ``recsys create-key``."""
    parser.add_argument("name", help="who will use it")
    parser.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=SCOPES,
        help="read: recommendations and items; write: events and the catalogue; admin: everything; may be repeated",
    )
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Make a key and write it to standard output, once: it cannot be shown again."""
    with current_database(read_settings(args).database) as engine:
        sys.stdout.write(create_api_key(engine, args.name, args.scope) + "\n")
    return 0


def create_api_key(engine: Engine, name: str, scopes: Sequence[str]) -> str:
    """Make a key and store its hash; the key itself is shown once, here.

    Args:
        engine: the shop's database.
        name: who will use it; two keys may share a name while one replaces the other.
        scopes: some of :data:`SCOPES`; ``admin`` includes the others.

    Raises:
        ConfigError: a scope is unknown or none is given.
    """
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(f"scopes: expected some of {list(SCOPES)}, came {unknown or 'none'}")
    key = PREFIX + secrets.token_urlsafe(32)
    with engine.begin() as connection:
        connection.execute(
            insert(ApiKey).values(
                key_hash=hash_of(key), name=name, scopes=sorted(set(scopes)), created_at=datetime.now(UTC)
            )
        )
    return key


def list_api_keys(engine: Engine) -> list[ApiKey]:
    """Every key, revoked ones too, the oldest first. The rows are detached: read them freely."""
    with Session(engine) as session:
        keys = list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.key_hash)))
        session.expunge_all()
        return keys


def revoke_api_key(engine: Engine, given: str) -> ApiKey:
    """Let a key open nothing from now on; one that was revoked before keeps that time.

    Args:
        engine: the shop's database.
        given: its id, or the key itself.
    Returns:
        The row, detached.

    Raises:
        ConfigError: there is no such key; the message names those that there are.
    """
    keys = list_api_keys(engine)
    key = next((key for key in keys if given == id_of(key) or hash_of(given) == key.key_hash), None)
    if key is None:
        known = "one of " + ", ".join(id_of(key) for key in keys) if keys else "of which there is none yet"
        came = "a key that is not known here" if given.startswith(PREFIX) else repr(given)  # no key goes into a log
        raise ConfigError(f"expected the id of a key, {known}, came {came}")
    if key.revoked_at is None:
        key.revoked_at = datetime.now(UTC)
        with engine.begin() as connection:
            connection.execute(update(ApiKey).where(ApiKey.key_hash == key.key_hash).values(revoked_at=key.revoked_at))
    return key


def id_of(key: ApiKey) -> str:
    """What people call a key by: how its hash begins."""
    return key.key_hash[:ID_DIGITS]


def hash_of(key: str) -> str:
    """SHA-256, hex. A key is 256 random bits, so a slow hash would protect nothing more."""
    return hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys in memory, so that a request asks no database. :meth:`refresh` brings new and revoked ones."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._scopes: dict[str, frozenset[str]] = {}
        self._refreshing = threading.Lock()

    def refresh(self) -> None:
        """Read all keys that are not revoked."""
        with self._refreshing, self._engine.connect() as connection:
            rows = connection.execute(select(ApiKey.key_hash, ApiKey.scopes).where(ApiKey.revoked_at.is_(None))).all()
            self._scopes = {key_hash: frozenset(scopes) for key_hash, scopes in rows}

    def scopes_of(self, key: str) -> frozenset[str] | None:
        """What a key may do, or None where it is unknown or revoked."""
        asked = hash_of(key)
        found = None
        for key_hash, scopes in self._scopes.items():
            # All are compared, each in constant time: the time taken tells nothing about which came close.
            if hmac.compare_digest(key_hash, asked):
                found = scopes
        return found
