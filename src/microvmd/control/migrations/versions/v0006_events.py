"""Events: what happened to MicroVMs, images, versions and connectors."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table; sequence numbers are never used again."""
    op.create_table(
        "events",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("event_id", sa.String(36), nullable=False, unique=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(128), nullable=False),
        sa.Column("time", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_account", "events", ["account", "sequence"])
    op.create_index("events_by_resource", "events", ["account", "resource", "sequence"])
    op.create_index("events_by_time", "events", ["time"])


def downgrade() -> None:
    """Drop it."""
    op.drop_table("events")
