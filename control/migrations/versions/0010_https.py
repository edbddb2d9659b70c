"""racks: where machines reach them by HTTPS."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.add_column(sa.Column("https", sa.String(64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("racks", schema=None) as batch_op:
        batch_op.drop_column("https")
