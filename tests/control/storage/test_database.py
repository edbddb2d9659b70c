"""The database: migrations and models agree, writers wait for each other, readers wait for nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from bootplane.control.errors import StartError
from bootplane.control.storage.database import MIGRATIONS, Database
from bootplane.control.storage.models import Model
from bootplane.control.storage.settings import SettingsRepository


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'region.sqlite'}")
    made.migrate()
    yield made
    made.close()


def test_the_migrations_lead_to_the_models(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"target_metadata": Model.metadata})
        assert compare_metadata(context, Model.metadata) == []


def test_migrating_again_changes_nothing_and_back_leaves_nothing(database: Database) -> None:
    SettingsRepository(database).put({"a": "1"})
    database.migrate()
    assert SettingsRepository(database).get("a") == "1"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert sa.inspect(database.engine).get_table_names() == ["alembic_version"]


def test_sqlite_is_opened_as_promised(database: Database) -> None:
    with database.read() as session:
        pragmas = {
            name: session.execute(sa.text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_reader_does_not_wait_for_a_writer(database: Database) -> None:
    settings = SettingsRepository(database)
    settings.put({"a": "before"})
    with database.begin() as session:
        session.execute(sa.text("UPDATE settings SET value = 'after'"))
        seen: list[str | None] = []
        reader = threading.Thread(target=lambda: seen.append(settings.get("a")))
        reader.start()
        reader.join(5)
        assert seen == ["before"]
    assert settings.get("a") == "after"


def test_writers_that_read_first_wait_for_each_other_and_lose_nothing(database: Database) -> None:
    settings = SettingsRepository(database)
    settings.put({"n": "0"})

    def count() -> None:
        for _ in range(25):
            with database.begin() as session:
                value = session.execute(sa.text("SELECT value FROM settings WHERE key = 'n'")).scalar_one()
                session.execute(sa.text("UPDATE settings SET value = :v"), {"v": str(int(value) + 1)})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings.get("n") == "100"


@pytest.mark.parametrize("content", [b"this is no database" * 100])
def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.sqlite").write_bytes(content)
    with pytest.raises(StartError, match=r"x\.sqlite.*cannot be opened or migrated: file is not a database"):
        Database(f"sqlite:///{tmp_path / 'x.sqlite'}").migrate()
