"""`migrate-database`: a region goes on in PostgreSQL where it stopped in SQLite."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from bootplane.control.backup import BackupError
from bootplane.control.cli.main import app
from bootplane.control.domain.boots import BootEvent, MachineKey
from bootplane.control.errors import StartError
from bootplane.control.migrate_database import KEPT_SUFFIX, migrate_database
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.database import Database
from bootplane.control.storage.models import Model
from bootplane.control.storage.timeline import TimelineRepository
from bootplane.control.storage.transfer import TransferError
from tests.fakes.filled import filled
from tests.fakes.regions import running, synced

MAC = "52:54:00:77:00:01"


def boot_event(name: str) -> BootEvent:
    return BootEvent(
        at=time.time(), kind="transfer", mac=MAC, address="10.0.0.9", rack="r", name=name, outcome="complete",
        detail={"bytes": 7, "agent": "caf\xe9"}, start="0123456789abcdef", seq=1,
    )  # fmt: skip


def add_event(data: Path, name: str) -> None:
    database = Database(f"sqlite:///{data / 'region.sqlite'}")
    database.migrate()
    TimelineRepository(database).add([boot_event(name)])
    database.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Of a small region that has ended."""
    with running(tmp_path / "data"):
        pass
    add_event(tmp_path / "data", "bootx64.efi")
    return tmp_path / "data"


def test_a_region_goes_on_where_it_stopped(tmp_path: Path, signer: Signer, postgres_url: str) -> None:
    with filled(tmp_path, signer) as (region, client):
        region_id, names = region.region_id, dict(region.publisher.current.contents.names)
        version = region.publisher.current.version
        selection = client.get("/api/v1/selections").json()["items"][-1]
    data = tmp_path / "data"
    add_event(data, "lpxelinux.0")
    moved = migrate_database(data, postgres_url)
    assert moved.rows["boot_resources"] == 9 and moved.rows["boot_events"] == 1
    assert not (data / "region.sqlite").exists() and Path(moved.kept).is_file()
    with running(data, database=postgres_url) as (region, client):
        assert region.region_id == region_id
        assert (region.publisher.current.version, region.publisher.current.contents.names) == (version, names)
        (event,) = TimelineRepository(region.database).events(MachineKey(MAC, ""), 0, 10)
        assert event.name == "lpxelinux.0" and event.detail == {"bytes": 7, "agent": "caf\xe9"}
        body = {"os": "ubuntu", "release": "jammy", "arches": ["amd64"]}
        new = client.post("/api/v1/selections", json=body).json()
        assert int(new["id"]) == int(selection["id"]) + 1, "ids go on behind the highest"
        assert (
            TimelineRepository(region.database).add(
                [
                    boot_event("x"),
                ]
            )
            == 0
        )  # the same (rack, start, seq)
        assert synced(region, client)["state"] in ("complete", "failed")  # its source has gone with the test


def test_a_region_that_runs_is_left_alone(tmp_path: Path, postgres_url: str) -> None:
    with running(tmp_path / "data"), pytest.raises(StartError, match="expected to be the only region here, got one"):
        migrate_database(tmp_path / "data", postgres_url)
    assert (tmp_path / "data" / "region.sqlite").exists()


def test_a_target_that_holds_something_is_refused(data: Path, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("create table somebody (id integer)")
        with pytest.raises(BackupError, match="expected an empty one, got one with the table somebody"):
            migrate_database(data, postgres_url)
        connection.execute("drop table somebody")
    other = Database(postgres_url)
    other.migrate()
    with other.begin() as session:
        session.execute(sa.text("insert into settings values ('a', 'b')"))
    other.close()
    with pytest.raises(BackupError, match="expected an empty one, got rows in settings"):
        migrate_database(data, postgres_url)
    assert (data / "region.sqlite").exists()


def test_a_row_that_does_not_fit_takes_all_back_and_mended_it_goes(data: Path, postgres_url: str) -> None:
    database = Database(f"sqlite:///{data / 'region.sqlite'}")
    with database.begin() as session:
        session.execute(sa.text("update boot_events set name = :name"), {"name": "x" * 600})
    database.close()
    with pytest.raises(TransferError, match=r"table boot_events: cannot be taken over: value too long"):
        migrate_database(data, postgres_url)
    assert counted(postgres_url) == 0 and (data / "region.sqlite").exists()
    with database.begin() as session:
        session.execute(sa.text("update boot_events set name = 'ends in NUL' || char(0)"))
    database.close()
    assert migrate_database(data, postgres_url).rows["boot_events"] == 1
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("select name from boot_events").fetchall() == [("ends in NUL\ufffd",)]


def counted(url: str) -> int:
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            return sum(
                connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in Model.metadata.sorted_tables
            )
    finally:
        database.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///x", "--to: expected postgresql://..., got another kind of database"),
        ("postgresql://nobody:geheim@127.0.0.1:1/x", "cannot be opened"),
    ],
)
def test_another_target_is_refused_in_one_sentence(url: str, words: str, data: Path) -> None:
    with pytest.raises(BackupError) as refused:
        migrate_database(data, url)
    assert words in str(refused.value) and "geheim" not in str(refused.value) and "\n" not in str(refused.value)


def test_twice_is_refused(data: Path, postgres_url: str) -> None:
    migrate_database(data, postgres_url)
    with pytest.raises(BackupError, match=r"before-postgresql: expected no database of an earlier move"):
        migrate_database(data, postgres_url)


def test_one_that_was_killed_after_its_commit_is_made_again(
    data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_words: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        migrate_database(data, postgres_url)
    assert (data / "region.sqlite").exists() and counted(postgres_url) > 0
    moved = migrate_database(data, postgres_url)
    assert moved.rows["boot_events"] == 1 and not (data / "region.sqlite").exists()


def test_rows_that_are_not_quite_the_same_are_somebody_elses(
    data: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", lambda *_words: (_ for _ in ()).throw(KeyboardInterrupt))
        migrate_database(data, postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as connection:  # a region has been started on it since
        connection.execute("update settings set value = value || 'x' where key = 'region_id'")
    with pytest.raises(BackupError, match="expected an empty one, got rows in"):
        migrate_database(data, postgres_url)


def test_a_reader_of_the_old_database_is_found_before_a_row_is_copied(data: Path, postgres_url: str) -> None:
    with closing(sqlite3.connect(data / "region.sqlite")) as reader:
        reader.execute("begin")
        reader.execute("select * from settings").fetchone()
        with pytest.raises(BackupError, match=r"expected to be the only one who has it open, got: database is locked"):
            migrate_database(data, postgres_url)
        with psycopg.connect(postgres_url) as connection:
            assert connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
    assert migrate_database(data, postgres_url).rows["boot_events"] == 1


def test_the_command_counts(data: Path, postgres_url: str) -> None:
    done = CliRunner().invoke(app, ["migrate-database", "--to", postgres_url, "--data", str(data), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"]["boot_events"] == 1 and found["kept"].endswith(KEPT_SUFFIX)
    done = CliRunner().invoke(app, ["migrate-database", "--to", postgres_url, "--data", str(data)])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
