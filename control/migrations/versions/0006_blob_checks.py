"""blobs: since when nothing names them, the first catalogue without them, and when they were last seen to be right."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("marked", sa.String(length=32), nullable=True))
        batch_op.add_column(sa.Column("unnamed_in", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("checked", sa.String(length=32), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.drop_column("checked")
        batch_op.drop_column("unnamed_in")
        batch_op.drop_column("marked")
