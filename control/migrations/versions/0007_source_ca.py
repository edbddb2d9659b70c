"""boot sources: a CA of their own, and since when they say less than before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("boot_sources", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ca", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("older_since", sa.String(length=32), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("boot_sources", schema=None) as batch_op:
        batch_op.drop_column("older_since")
        batch_op.drop_column("ca")
