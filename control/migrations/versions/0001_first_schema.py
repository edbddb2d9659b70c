"""first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("work_id", sa.String(length=128), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("work_id", name=op.f("pk_attempts")),
    )
    op.create_table(
        "banners",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("since", sa.String(length=32), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_banners")),
    )
    op.create_table(
        "blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("root", sa.String(length=64), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("removed", sa.String(length=32), nullable=True),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_blobs")),
    )
    op.create_table(
        "boot_sources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("unsigned", sa.Boolean(), nullable=False),
        sa.Column("keyring", sa.LargeBinary(), nullable=True),
        sa.Column("fingerprints", sa.JSON(), nullable=False),
        sa.Column("last_checked", sa.String(length=32), nullable=True),
        sa.Column("last_updated", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boot_sources")),
        sa.UniqueConstraint("name", name=op.f("uq_boot_sources_name")),
        sa.UniqueConstraint("url", name=op.f("uq_boot_sources_url")),
    )
    op.create_table(
        "derived_files",
        sa.Column("archive_sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("archive_sha256", "name", name=op.f("pk_derived_files")),
    )
    with op.batch_alter_table("derived_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_derived_files_sha256"), ["sha256"], unique=False)

    op.create_table(
        "executors",
        sa.Column("id", sa.String(length=128), nullable=False),
        sa.Column("beat", sa.Double(), nullable=False),
        sa.Column("taker", sa.String(length=128), nullable=True),
        sa.Column("taken_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_executors")),
    )
    op.create_table(
        "racks",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("revoked", sa.String(length=32), nullable=True),
        sa.Column("last_seen", sa.String(length=32), nullable=True),
        sa.Column("http", sa.String(length=64), nullable=True),
        sa.Column("tftp", sa.String(length=64), nullable=True),
        sa.Column("catalogue_version", sa.Integer(), nullable=True),
        sa.Column("cache", sa.JSON(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_racks")),
    )
    op.create_table(
        "selections",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("os", sa.String(length=64), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("arches", sa.JSON(), nullable=False),
        sa.Column("subarches", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selections")),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
    )
    op.create_table(
        "sync_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("starts", sa.Integer(), nullable=False),
        sa.Column("started", sa.String(length=32), nullable=False),
        sa.Column("finished", sa.String(length=32), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sync_runs")),
    )
    op.create_table(
        "boot_resources",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("os", sa.String(length=64), nullable=False),
        sa.Column("release", sa.String(length=64), nullable=False),
        sa.Column("arch", sa.String(length=32), nullable=False),
        sa.Column("subarch", sa.String(length=64), nullable=False),
        sa.Column("kflavor", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("title", sa.String(length=256), nullable=False),
        sa.Column("codename", sa.String(length=128), nullable=False),
        sa.Column("bootloader_type", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["boot_sources.id"],
            name=op.f("fk_boot_resources_source_id_boot_sources"),
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_boot_resources")),
        sa.UniqueConstraint("name", name=op.f("uq_boot_resources_name")),
    )
    op.create_table(
        "source_documents",
        sa.Column("source_id", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.String(length=256), nullable=False),
        sa.Column("updated", sa.String(length=64), nullable=False),
        sa.Column("accepted", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["boot_sources.id"],
            name=op.f("fk_source_documents_source_id_boot_sources"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source_id", "content_id", name=op.f("pk_source_documents")),
    )
    op.create_table(
        "resource_sets",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("resource_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("marked", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["resource_id"],
            ["boot_resources.id"],
            name=op.f("fk_resource_sets_resource_id_boot_resources"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_sets")),
        sa.UniqueConstraint("resource_id", "version", name=op.f("uq_resource_sets_resource_id")),
    )
    op.create_table(
        "resource_files",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("set_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("ftype", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(length=2048), nullable=False),
        sa.Column("kparams", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["set_id"], ["resource_sets.id"], name=op.f("fk_resource_files_set_id_resource_sets"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_files")),
        sa.UniqueConstraint("set_id", "name", name=op.f("uq_resource_files_set_id")),
    )
    with op.batch_alter_table("resource_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_resource_files_sha256"), ["sha256"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("resource_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_resource_files_sha256"))

    op.drop_table("resource_files")
    op.drop_table("resource_sets")
    op.drop_table("source_documents")
    op.drop_table("boot_resources")
    op.drop_table("sync_runs")
    op.drop_table("settings")
    op.drop_table("selections")
    op.drop_table("racks")
    op.drop_table("executors")
    with op.batch_alter_table("derived_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_derived_files_sha256"))

    op.drop_table("derived_files")
    op.drop_table("boot_sources")
    op.drop_table("blobs")
    op.drop_table("banners")
    op.drop_table("attempts")
