"""How far each receiver of events has come."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "event_places",
        sa.Column("receiver", sa.String(64), primary_key=True),
        sa.Column("sequence", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("event_places")
