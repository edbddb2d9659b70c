"""The database: migrations and models agree on each backend, writers wait for each other, readers wait for nobody."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bootplane.control.errors import StartError
from bootplane.control.storage.database import MIGRATIONS, Database
from bootplane.control.storage.models import Model
from bootplane.control.storage.settings import SettingsRepository


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


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@on_sqlite
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
        reader.join(60)
        assert seen == ["before"]
    assert settings.get("a") == "after"


@on_sqlite  # PostgreSQL lets them work side by side, and its writers of one row wait for each other
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


def test_many_threads_may_write_at_once(database: Database) -> None:
    failed: list[Exception] = []

    def write(number: int) -> None:
        try:
            for turn in range(10):
                SettingsRepository(database).put({f"{number}-{turn}": "x"})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with database.read() as session:
        assert session.execute(sa.text("SELECT count(*) FROM settings")).scalar_one() == 40


def test_every_step_of_the_schema_can_be_gone_back_and_forth(database_url: str) -> None:
    made = Database(database_url)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    revisions = [each.revision for each in ScriptDirectory(str(MIGRATIONS)).walk_revisions()][::-1]
    try:
        for revision in (*revisions, *revisions[-2::-1], revisions[-1]):
            with made.engine.begin() as connection:
                config.attributes["connection"] = connection
                up = revisions.index(revision) >= revisions.index(made.revision() or revisions[0])
                (command.upgrade if up else command.downgrade)(config, revision)
            assert made.revision() == revision
        with made.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"target_metadata": Model.metadata})
            assert compare_metadata(context, Model.metadata) == []
    finally:
        made.close()
