"""Items by time: the service asks every few seconds what changed, and falls back on what came last.

Revision: 0002
Follows: 0001
Date: 2026-11-20
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_items_created_at", "items", ["created_at"])
    op.create_index("ix_items_updated_at", "items", ["updated_at"])


def downgrade() -> None:
    op.drop_index("ix_items_updated_at", "items")
    op.drop_index("ix_items_created_at", "items")
