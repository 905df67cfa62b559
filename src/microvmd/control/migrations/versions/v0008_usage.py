"""What MicroVMs used, by hour, and the meters of those that have not ended."""

import json
import time

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the tables; what lives already is metered from now on."""
    op.create_table(
        "meters",
        sa.Column("microvm_id", sa.String(64), primary_key=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("image_arn", sa.String(256), nullable=False),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("stored_bytes", sa.Integer, nullable=False),
    )
    op.create_index("meters_by_account", "meters", ["account"])
    op.create_table(
        "usage",
        sa.Column("microvm_id", sa.String(64), primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True),
        sa.Column("account", sa.String(12), nullable=False),
        sa.Column("image_arn", sa.String(256), nullable=False),
        sa.Column("running_s", sa.Float, nullable=False),
        sa.Column("suspended_s", sa.Float, nullable=False),
        sa.Column("vcpu_s", sa.Float, nullable=False),
        sa.Column("memory_gb_s", sa.Float, nullable=False),
        sa.Column("read_bytes", sa.Integer, nullable=False),
        sa.Column("written_bytes", sa.Integer, nullable=False),
        sa.Column("stored_gb_s", sa.Float, nullable=False),
    )
    op.create_index("usage_by_account", "usage", ["account", "hour"])
    _begin(op.get_bind())


def downgrade() -> None:
    """Drop them."""
    op.drop_table("usage")
    op.drop_table("meters")


def _begin(connection: sa.Connection) -> None:
    microvms = sa.table(
        "microvms",
        sa.column("microvm_id", sa.String),
        sa.column("account", sa.String),
        sa.column("image_arn", sa.String),
        sa.column("phase", sa.String),
        sa.column("memory_mib", sa.Integer),
        sa.column("document", sa.Text),
    )
    meters = sa.table(
        "meters",
        *(
            sa.column(name)
            for name in ("microvm_id", "account", "image_arn", "phase", "memory_mib")
        ),
        sa.column("at"),
        sa.column("stored_bytes"),
    )
    now = time.time()
    for row in connection.execute(sa.select(microvms).where(microvms.c.phase != "TERMINATED")):
        connection.execute(
            sa.insert(meters).values(
                microvm_id=row.microvm_id,
                account=row.account,
                image_arn=row.image_arn,
                phase=row.phase,
                memory_mib=row.memory_mib,
                at=now,
                stored_bytes=json.loads(row.document).get("stored_bytes", 0),
            )
        )
