"""uploads: custom images, where a resource comes from, and the releases that sources offer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("boot_resources", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rtype", sa.String(length=16), server_default="synced", nullable=False))
        batch_op.add_column(sa.Column("base_image", sa.String(length=128), server_default="", nullable=False))
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("os", sa.String(length=64), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("arch", sa.String(length=32), nullable=False),
        sa.Column("subarch", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=256), nullable=False),
        sa.Column("base_image", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("touched", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_table(
        "upload_files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("upload_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("ftype", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("fk_upload_files_upload_id_uploads"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_files")),
        sa.UniqueConstraint("upload_id", "name", name=op.f("uq_upload_files_upload_id")),
    )
    op.create_table(
        "source_releases",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("os", sa.String(length=64), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["boot_sources.id"],
            name=op.f("fk_source_releases_source_id_boot_sources"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source_id", "os", "release", name=op.f("pk_source_releases")),
    )


def downgrade() -> None:
    op.drop_table("source_releases")
    op.drop_table("upload_files")
    op.drop_table("uploads")
    with op.batch_alter_table("boot_resources", schema=None) as batch_op:
        batch_op.drop_column("base_image")
        batch_op.drop_column("rtype")
