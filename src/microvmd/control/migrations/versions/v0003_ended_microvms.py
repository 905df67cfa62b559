"""When MicroVMs ended, so that they can be forgotten; and indexes for lists of many."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BATCH = 1000


def upgrade() -> None:
    """Add the column, with what the documents say, and the indexes."""
    op.add_column("microvms", sa.Column("terminated_at", sa.Float, nullable=True))
    _fill(op.get_bind())
    op.create_index("microvms_by_end", "microvms", ["terminated_at"])
    op.create_index(
        "microvms_by_image_version",
        "microvms",
        ["account", "image_arn", "image_version", "sequence"],
    )
    op.create_index("microvms_by_version", "microvms", ["account", "image_version", "sequence"])
    op.create_index("client_tokens_by_resource", "client_tokens", ["account", "resource"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("client_tokens_by_resource", "client_tokens")
    for name in ("microvms_by_version", "microvms_by_image_version", "microvms_by_end"):
        op.drop_index(name, "microvms")
    op.drop_column("microvms", "terminated_at")


def _fill(connection: sa.Connection) -> None:
    table = sa.table(
        "microvms",
        sa.column("sequence", sa.Integer),
        sa.column("phase", sa.String),
        sa.column("document", sa.Text),
        sa.column("terminated_at", sa.Float),
    )
    last = 0
    while True:
        rows = connection.execute(
            sa.select(table.c.sequence, table.c.document)
            .where(table.c.phase == "TERMINATED", table.c.sequence > last)
            .order_by(table.c.sequence)
            .limit(BATCH)
        ).all()
        for row in rows:
            connection.execute(
                sa.update(table)
                .where(table.c.sequence == row.sequence)
                .values(terminated_at=json.loads(row.document)["terminated_at"])
            )
        if not rows:
            return
        last = rows[-1].sequence
