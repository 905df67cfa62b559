"""Network connectors of accounts, and their versions."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "connectors",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("connector_id", sa.String(64), nullable=False, unique=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("modified_at", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("connectors_by_account", "connectors", ["account", "sequence"])
    op.create_index("connectors_by_name", "connectors", ["account", "name"])
    op.create_index("connectors_by_state", "connectors", ["state", "modified_at"])
    op.create_table(
        "connector_versions",
        sa.Column("connector_id", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("connector_versions_by_state", "connector_versions", ["state"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("connector_versions", "connectors"):
        op.drop_table(table)
