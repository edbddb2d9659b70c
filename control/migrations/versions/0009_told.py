"""resource sets: what their source says of them beside what machines need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("resource_sets", schema=None) as batch_op:
        batch_op.add_column(sa.Column("told", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("resource_sets", schema=None) as batch_op:
        batch_op.drop_column("told")
