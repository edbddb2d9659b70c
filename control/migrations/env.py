"""Alembic's entry: runs migrations on the connection that Database.migrate() hands over."""

from __future__ import annotations

from alembic import context

from bootplane.control.storage.models import Model

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Model.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
