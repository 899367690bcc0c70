"""The database's tables: the metadata that migrations are compared against.

SQLite (embedded) and PostgreSQL (production) hold the same tables. A change here needs a migration:
``alembic -x url=… revision --autogenerate -m "why"``, read and edited by hand.

Events and reviews name items and users without a foreign key: they come from other systems, in any order, and one
about an item that is not in the catalogue yet must not be lost.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from recsys.schema import EVENT_TYPES


class UTCDateTime(TypeDecorator[datetime]):
    """A time that is UTC-aware in Python on every database; SQLite itself knows no time zones.

    Refuses a naive datetime: nobody can tell which zone it is in.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Python → database."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"expected a datetime with a time zone, came the naive {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Database → Python."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# JSONB compares by content, so an unchanged row can be told from a changed one; SQLite compares the text, which the
# engine writes with sorted keys (see database.py).
JsonValue = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

# SQLite numbers rows by itself only in a column declared INTEGER.
SequenceNumber = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """Names every constraint, so that a migration can drop what another one made."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime(),
        dict[str, Any]: JsonValue,
        list[dict[str, Any]]: JsonValue,
        list[str]: JsonValue,
    }


class Item(Base):
    """One article of the catalogue. A deleted one stays, with its time, because past events speak of it."""

    __tablename__ = "items"
    __table_args__ = (CheckConstraint("price_cents >= 0", name="price_cents"),)

    item_id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    description: Mapped[str | None]
    category: Mapped[str | None]  # a path, general to special: "Women > Tops > Blouses"
    brand: Mapped[str | None]
    family: Mapped[str | None]  # one design in several colours or sizes shares it
    price_cents: Mapped[int | None] = mapped_column(BigInteger)
    in_stock: Mapped[bool] = mapped_column(default=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)  # name → value, or name → list of values
    created_at: Mapped[datetime | None] = mapped_column(index=True)  # first offered by the shop, null when unknown
    updated_at: Mapped[datetime] = mapped_column(index=True)  # when the row last changed; the service polls it
    deleted_at: Mapped[datetime | None]

    images: Mapped[list["ItemImage"]] = relationship(
        order_by="ItemImage.position", cascade="all, delete-orphan", passive_deletes=True
    )


class ItemImage(Base):
    """One picture of an item; position 0 is the one encoded."""

    __tablename__ = "item_images"

    item_id: Mapped[str] = mapped_column(ForeignKey("items.item_id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]  # a URL, an absolute path, or a path below the images folder of the configuration


class Review(Base):
    """What one shopper wrote about one item."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
        CheckConstraint("helpful_votes >= 0", name="helpful_votes"),
    )

    review_id: Mapped[str] = mapped_column(primary_key=True)
    item_id: Mapped[str] = mapped_column(index=True)
    user_id: Mapped[str | None] = mapped_column(index=True)
    rating: Mapped[float | None]  # 1 to 5
    title: Mapped[str | None]
    text: Mapped[str | None]
    helpful_votes: Mapped[int] = mapped_column(default=0)
    timestamp: Mapped[datetime]


class User(Base):
    """Every shopper that an event or a review named, and what the shop says about them."""

    __tablename__ = "users"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    attributes: Mapped[dict[str, Any]] = mapped_column(default=dict)


class Event(Base):
    """One interaction, never changed. ``sequence`` is the order of arrival; ``timestamp`` is when it happened."""

    __tablename__ = "events"
    __table_args__ = (
        CheckConstraint("event_type IN (" + ", ".join(f"'{name}'" for name in EVENT_TYPES) + ")", name="event_type"),
        CheckConstraint("quantity > 0", name="quantity"),
        # Both hold all that a request's history needs, so reading it touches the index alone.
        Index(None, "user_id", "timestamp", "sequence", "event_type", "item_id"),
        Index(None, "session_id", "timestamp", "sequence", "event_type", "item_id"),
        # A number is never used twice, even after a deletion: the log counts on it.
        {"sqlite_autoincrement": True},
    )

    sequence: Mapped[int] = mapped_column(SequenceNumber, primary_key=True, autoincrement=True)
    event_id: Mapped[str] = mapped_column(unique=True)  # the sender's; sending it twice is harmless
    event_type: Mapped[str]
    user_id: Mapped[str | None]
    session_id: Mapped[str | None]
    item_id: Mapped[str | None]
    value: Mapped[float | None]  # price of a purchase in cents, stars of a rating
    quantity: Mapped[int | None]
    recommendation_id: Mapped[str | None]  # the slate it answers
    position: Mapped[int | None]  # its place in that slate
    timestamp: Mapped[datetime]
    properties: Mapped[dict[str, Any] | None]  # anything else that the sender knows


class Recommendation(Base):
    """One slate as it was served, with the probability that each place had."""

    __tablename__ = "recommendations"

    recommendation_id: Mapped[str] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime] = mapped_column(index=True)
    placement: Mapped[str]
    user_id: Mapped[str | None] = mapped_column(index=True)
    session_id: Mapped[str | None]
    release: Mapped[str]
    variant: Mapped[str | None]
    fallback: Mapped[str]
    items: Mapped[list[dict[str, Any]]]  # [{item_id, rank, score, propensity}]
    took_ms: Mapped[float]


class Release(Base):
    """One immutable release directory. Which one is live is in ``publications``."""

    __tablename__ = "releases"

    version: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str]  # a directory
    created_at: Mapped[datetime]
    data_cutoff: Mapped[datetime]  # nothing later was learned from
    checksum: Mapped[str]
    metrics: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(default="ready")  # ready | refused | retired


class Publication(Base):
    """Says that a release went live. The newest row names the live one; publishing and rolling back add a row."""

    __tablename__ = "publications"
    __table_args__ = ({"sqlite_autoincrement": True},)

    sequence: Mapped[int] = mapped_column(SequenceNumber, primary_key=True, autoincrement=True)
    version: Mapped[str] = mapped_column(ForeignKey("releases.version"))
    published_at: Mapped[datetime]


class Run(Base):
    """One execution of a pipeline."""

    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    pipeline: Mapped[str]  # retrain, evaluate, …
    status: Mapped[str]  # running | succeeded | failed
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    config: Mapped[dict[str, Any]]
    stages: Mapped[list[dict[str, Any]]] = mapped_column(default=list)  # [{name, seconds, peak_mib}]
    release: Mapped[str | None]  # the version it made
    error: Mapped[str | None]


class Experiment(Base):
    """Which releases share the traffic, and how."""

    __tablename__ = "experiments"

    name: Mapped[str] = mapped_column(primary_key=True)
    variants: Mapped[list[dict[str, Any]]]  # [{name, release, share}]; the shares sum to 1
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class ApiKey(Base):
    """A caller's key; only its hash is kept."""

    __tablename__ = "api_keys"

    key_hash: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256, hexadecimal
    name: Mapped[str]
    scopes: Mapped[list[str]]  # read, write, admin
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Identity(Base):
    """One row, made with the tables: which database this is. An event log refuses to be continued from another."""

    __tablename__ = "identity"

    database_id: Mapped[str] = mapped_column(primary_key=True)
