"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "images",
        sa.Column("account", sa.String(12), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("account", sa.String(12), primary_key=True),
        sa.Column("image_name", sa.String(64), primary_key=True),
        sa.Column("major", sa.Integer, primary_key=True),
        sa.Column("minor", sa.Integer, primary_key=True),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "microvms",
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("microvm_id", sa.String(64), nullable=False, unique=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("endpoint_id", sa.String(36), nullable=False, unique=True),
        sa.Column("image_arn", sa.String(256), nullable=False),
        sa.Column("image_version", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_index("microvms_by_account", "microvms", ["account", "sequence"])
    op.create_index("microvms_by_image", "microvms", ["account", "image_arn", "sequence"])
    op.create_index("microvms_by_phase", "microvms", ["phase"])
    op.create_table(
        "client_tokens",
        sa.Column("account", sa.String(12), primary_key=True),
        sa.Column("operation", sa.String(128), primary_key=True),
        sa.Column("token", sa.String(128), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(256), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("client_tokens", "microvms", "versions", "images"):
        op.drop_table(table)
