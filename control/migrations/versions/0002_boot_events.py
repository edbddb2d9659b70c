"""boot events: each machine's timeline."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "boot_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("mac", sa.String(length=17), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("rack", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("start", sa.String(length=16), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boot_events")),
        sa.UniqueConstraint("rack", "start", "seq", name=op.f("uq_boot_events_rack")),
    )
    with op.batch_alter_table("boot_events", schema=None) as batch_op:
        batch_op.create_index(
            "ix_boot_events_mac",
            ["mac", "at"],
            unique=False,
            sqlite_where=sa.text("mac IS NOT NULL"),
            postgresql_where=sa.text("mac IS NOT NULL"),
        )
        batch_op.create_index("ix_boot_events_address", ["address", "at"], unique=False)
        batch_op.create_index(
            "ix_boot_events_nameless",
            ["address", "rack", "at"],
            unique=False,
            sqlite_where=sa.text("mac IS NULL"),
            postgresql_where=sa.text("mac IS NULL"),
        )


def downgrade() -> None:
    op.drop_table("boot_events")
