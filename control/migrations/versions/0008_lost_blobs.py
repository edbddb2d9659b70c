"""blobs: since when the file of one that is still wanted is not here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("lost", sa.String(length=32), nullable=True))


def downgrade() -> None:
    op.execute("DELETE FROM blobs WHERE lost IS NOT NULL")  # what has no file had no row
    with op.batch_alter_table("blobs", schema=None) as batch_op:
        batch_op.drop_column("lost")
