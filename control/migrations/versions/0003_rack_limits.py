"""racks: the limits an operator has set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("limit_cache_bytes", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("limit_upstream_bytes_s", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.drop_column("limit_upstream_bytes_s")
        batch_op.drop_column("limit_cache_bytes")
