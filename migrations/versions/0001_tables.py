"""The tables.

Revision: 0001
Follows: nothing
Date: 2026-11-20
"""

import uuid

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EVENT_TYPES = "'impression', 'detail-page-view', 'add-to-cart', 'remove-from-cart', 'purchase', 'search', 'rating'"


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("title", sa.String()),
        sa.Column("description", sa.String()),
        sa.Column("category", sa.String()),
        sa.Column("brand", sa.String()),
        sa.Column("family", sa.String()),
        sa.Column("price_cents", sa.BigInteger()),
        sa.Column("in_stock", sa.Boolean(), nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME),
        sa.PrimaryKeyConstraint("item_id", name=op.f("pk_items")),
        sa.CheckConstraint("price_cents >= 0", name=op.f("ck_items_price_cents")),
    )
    op.create_index("ix_items_created_at", "items", ["created_at"])
    op.create_index("ix_items_updated_at", "items", ["updated_at"])
    op.create_table(
        "item_images",
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("item_id", "position", name=op.f("pk_item_images")),
        sa.ForeignKeyConstraint(
            ["item_id"], ["items.item_id"], name=op.f("fk_item_images_item_id_items"), ondelete="CASCADE"
        ),
    )
    op.create_table(
        "reviews",
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("item_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String()),
        sa.Column("rating", sa.Double()),
        sa.Column("title", sa.String()),
        sa.Column("text", sa.String()),
        sa.Column("helpful_votes", sa.Integer(), nullable=False),
        sa.Column("timestamp", TIME, nullable=False),
        sa.PrimaryKeyConstraint("review_id", name=op.f("pk_reviews")),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name=op.f("ck_reviews_rating")),
        sa.CheckConstraint("helpful_votes >= 0", name=op.f("ck_reviews_helpful_votes")),
    )
    op.create_index("ix_reviews_item_id", "reviews", ["item_id"])
    op.create_index("ix_reviews_user_id", "reviews", ["user_id"])
    op.create_table(
        "users",
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("attributes", JSON, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_users")),
    )
    op.create_table(
        "events",
        sa.Column("sequence", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("user_id", sa.String()),
        sa.Column("session_id", sa.String()),
        sa.Column("item_id", sa.String()),
        sa.Column("value", sa.Double()),
        sa.Column("quantity", sa.Integer()),
        sa.Column("recommendation_id", sa.String()),
        sa.Column("position", sa.Integer()),
        sa.Column("timestamp", TIME, nullable=False),
        sa.Column("properties", JSON),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_events")),
        sa.UniqueConstraint("event_id", name=op.f("uq_events_event_id")),
        sa.CheckConstraint(f"event_type IN ({EVENT_TYPES})", name=op.f("ck_events_event_type")),
        sa.CheckConstraint("quantity > 0", name=op.f("ck_events_quantity")),
        sqlite_autoincrement=True,
    )
    for key in ("user_id", "session_id"):
        op.create_index(
            f"ix_events_{key}_timestamp_sequence_event_type_item_id",
            "events",
            [key, "timestamp", "sequence", "event_type", "item_id"],
        )
    op.create_table(
        "recommendations",
        sa.Column("recommendation_id", sa.String(), nullable=False),
        sa.Column("requested_at", TIME, nullable=False),
        sa.Column("placement", sa.String(), nullable=False),
        sa.Column("user_id", sa.String()),
        sa.Column("session_id", sa.String()),
        sa.Column("release", sa.String(), nullable=False),
        sa.Column("variant", sa.String()),
        sa.Column("fallback", sa.String(), nullable=False),
        sa.Column("items", JSON, nullable=False),
        sa.Column("took_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("recommendation_id", name=op.f("pk_recommendations")),
    )
    op.create_index("ix_recommendations_requested_at", "recommendations", ["requested_at"])
    op.create_index("ix_recommendations_user_id", "recommendations", ["user_id"])
    op.create_table(
        "releases",
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("data_cutoff", TIME, nullable=False),
        sa.Column("checksum", sa.String(), nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_releases")),
    )
    op.create_table(
        "publications",
        sa.Column("sequence", SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("published_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_publications")),
        sa.ForeignKeyConstraint(["version"], ["releases.version"], name=op.f("fk_publications_version_releases")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "runs",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("pipeline", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("config", JSON, nullable=False),
        sa.Column("stages", JSON, nullable=False),
        sa.Column("release", sa.String()),
        sa.Column("error", sa.String()),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_runs")),
    )
    op.create_table(
        "experiments",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("variants", JSON, nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_experiments")),
    )
    op.create_table(
        "api_keys",
        sa.Column("key_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME),
        sa.PrimaryKeyConstraint("key_hash", name=op.f("pk_api_keys")),
    )
    identity = op.create_table(
        "identity",
        sa.Column("database_id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("database_id", name=op.f("pk_identity")),
    )
    op.bulk_insert(identity, [{"database_id": str(uuid.uuid4())}])


def downgrade() -> None:
    op.drop_table("identity")
    op.drop_table("api_keys")
    op.drop_table("experiments")
    op.drop_table("runs")
    op.drop_table("publications")
    op.drop_table("releases")
    op.drop_table("recommendations")
    op.drop_table("events")
    op.drop_table("users")
    op.drop_table("reviews")
    op.drop_table("item_images")
    op.drop_table("items")
