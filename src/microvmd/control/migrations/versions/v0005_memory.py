"""How much memory each MicroVM counts for, and indexes to sum it and to count builds."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column, filled for what still lives, and the indexes."""
    op.add_column(
        "microvms", sa.Column("memory_mib", sa.Integer, nullable=False, server_default="0")
    )
    _fill(op.get_bind())
    op.create_index("microvms_by_use", "microvms", ["account", "phase", "memory_mib"])
    op.create_index("versions_by_state", "versions", ["account", "state"])


def downgrade() -> None:
    """Drop them."""
    op.drop_index("versions_by_state", "versions")
    op.drop_index("microvms_by_use", "microvms")
    op.drop_column("microvms", "memory_mib")


def _fill(connection: sa.Connection) -> None:
    microvms = sa.table(
        "microvms",
        sa.column("sequence", sa.Integer),
        sa.column("account", sa.String),
        sa.column("image_arn", sa.String),
        sa.column("image_version", sa.String),
        sa.column("phase", sa.String),
        sa.column("memory_mib", sa.Integer),
    )
    living = connection.execute(sa.select(microvms).where(microvms.c.phase != "TERMINATED")).all()
    for row in living:
        memory = _memory(connection, row.account, row.image_arn, row.image_version)
        connection.execute(
            sa.update(microvms).where(microvms.c.sequence == row.sequence).values(memory_mib=memory)
        )


def _memory(connection: sa.Connection, account: str, arn: str, number: str) -> int:
    versions = sa.table(
        "versions",
        sa.column("account", sa.String),
        sa.column("image_name", sa.String),
        sa.column("major", sa.Integer),
        sa.column("minor", sa.Integer),
        sa.column("document", sa.Text),
    )
    major, _, minor = number.partition(".")
    document = connection.execute(
        sa.select(versions.c.document).where(
            versions.c.account == account,
            versions.c.image_name == arn.rpartition(":")[2],
            versions.c.major == int(major),
            versions.c.minor == int(minor or 0),
        )
    ).scalar_one_or_none()
    return 0 if document is None else int(json.loads(document)["config"]["memory_mib"])
