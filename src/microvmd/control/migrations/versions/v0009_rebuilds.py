"""Which versions are being built again, to count those builds."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column and its index; before it no version was built twice."""
    column = sa.Column("rebuilding", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("versions", column)
    op.create_index("versions_by_rebuild", "versions", ["rebuilding", "account"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("versions_by_rebuild", "versions")
    op.drop_column("versions", "rebuilding")
