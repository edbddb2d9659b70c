"""racks: the shares of their clients that an operator has set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("limit_shares", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.drop_column("limit_shares")
