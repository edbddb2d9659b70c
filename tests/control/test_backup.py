"""`backup` and `restore`: one moment of a region that runs, and a region that goes on from it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sqlite3
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import zstandard
from typer.testing import CliRunner

from bootplane.control import backup as module
from bootplane.control import datadir
from bootplane.control.app import Region
from bootplane.control.backup import BackupError, back_up, restore
from bootplane.control.cli.main import app
from bootplane.control.errors import StartError
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.database import MIGRATIONS, Database
from bootplane.control.storage.settings import SettingsRepository
from tests.fakes.filled import filled
from tests.fakes.mirror import Fault, publish_small, serve
from tests.fakes.regions import running, synced

KEYS = ("region-key", "admin-token")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, signer: Signer) -> Iterator[Region]:
    with filled(tmp_path_factory.mktemp("site"), signer) as (region, client):
        assert client.post("/api/v1/racks", json={"name": "r1"}).status_code in (201, 404, 405)
        yield region


@pytest.fixture(scope="module")
def archive(site: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (site.settings.data / "bootplane.toml").write_text("parallel_downloads = 3\n")
    file = tmp_path_factory.mktemp("backups") / "backup"
    back_up(file, site.settings.data)
    return file


def members(file: Path) -> dict[str, bytes]:
    with (
        zstandard.ZstdDecompressor().stream_reader(file.open("rb")) as raw,
        tarfile.open(mode="r|", fileobj=raw) as tar,
    ):
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


@contextmanager
def packed(file: Path) -> Iterator[tarfile.TarFile]:
    with (
        file.open("wb") as out,
        zstandard.ZstdCompressor().stream_writer(out) as raw,
        tarfile.open(mode="w|", fileobj=raw) as tar,
    ):
        yield tar


def write(file: Path, parts: dict[str, bytes], **change: Any) -> Path:
    """A backup of *parts*, whose manifest is right but for what *change* says."""
    manifest = json.loads(parts["backup.json"]) | change
    content = {**parts, "backup.json": json.dumps(manifest).encode()}
    with packed(file) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def test_a_restored_region_goes_on_with_its_store(site: Region, archive: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copytree(site.settings.data / "image-storage", data / "image-storage")
    done = restore(archive, data)
    assert done.region == site.region_id and done.rows > 50
    before = site.publisher.current
    with running(data) as (region, client):
        assert region.region_id == site.region_id
        assert region.admin_token == site.admin_token
        assert region.key.secret_bytes() == site.key.secret_bytes()
        assert region.settings.parallel_downloads == 3
        images = client.get("/api/v1/images").json()["items"]
        assert len(images) == 9 and all(image["complete"] for image in images)
        after = region.publisher.current
        assert after.contents.names == before.contents.names
        assert after.version > before.version + 1000, "racks refuse a catalogue older than the one they have"


def test_a_region_without_its_store_knows_what_to_fetch(archive: Path, tmp_path: Path) -> None:
    restore(archive, tmp_path / "data")
    with running(tmp_path / "data") as (_, client):
        assert len(client.get("/api/v1/sources").json()["items"]) == 1
        assert not any(image["complete"] for image in client.get("/api/v1/images").json()["items"])


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(archive: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in archive.parent.iterdir()] == ["backup"]
    assert set(members(archive)) >= {"backup.json", "region.sqlite", "bootplane.toml", *KEYS}


def test_restored_secrets_are_for_their_owner_alone(archive: Path, tmp_path: Path) -> None:
    restore(archive, tmp_path / "data")
    for name in (*KEYS, "region.sqlite"):
        assert (tmp_path / "data" / name).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "data").iterdir() if path.name not in ("image-storage",)) == sorted(
        [*KEYS, "bootplane.toml", "region.sqlite"]
    )


def test_it_is_one_moment_while_others_write(tmp_path: Path) -> None:
    with running(tmp_path / "data") as (region, _):
        settings = SettingsRepository(region.database)
        settings.put({"left": "0", "right": "0"})
        stop = threading.Event()

        def write_pairs() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                settings.put({"left": str(number), "right": str(number)})

        writer = threading.Thread(target=write_pairs)
        writer.start()
        try:
            for turn in range(5):
                back_up(tmp_path / f"{turn}", tmp_path / "data")
        finally:
            stop.set()
            writer.join()
    seen = []
    for turn in range(5):
        restore(tmp_path / f"{turn}", tmp_path / f"restored-{turn}")
        database = Database(f"sqlite:///{tmp_path / f'restored-{turn}' / 'region.sqlite'}")
        left, right = (SettingsRepository(database).get(key) for key in ("left", "right"))
        database.close()
        assert left == right
        seen.append(int(left or 0))
    assert seen == sorted(seen) and seen[-1] > seen[0]


def test_from_postgresql_and_back_to_either(postgres: Any, archive: Path, tmp_path: Path, site: Region) -> None:
    expected = rows(f"sqlite:///{site.settings.data / 'region.sqlite'}")
    with postgres.database() as first, postgres.database() as second:
        restore(archive, tmp_path / "one", first)
        assert not (tmp_path / "one" / "region.sqlite").exists()
        assert rows(first) == expected
        back_up(tmp_path / "again", tmp_path / "one", first)
        restore(tmp_path / "again", tmp_path / "two", second)
        assert rows(second) == expected
        restore(tmp_path / "again", tmp_path / "three")
        assert rows(f"sqlite:///{tmp_path / 'three' / 'region.sqlite'}") == expected
        with pytest.raises(BackupError, match="expected an empty one, got rows in"):
            restore(archive, tmp_path / "four", second)
        assert "region-key" not in {path.name for path in (tmp_path / "four").iterdir()}


def rows(url: str) -> dict[str, int]:
    """Table -> rows, of those that do not change by looking."""
    from bootplane.control.storage.models import Model

    database = Database(url)
    try:
        with database.engine.connect() as connection:
            return {
                table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in Model.metadata.sorted_tables
            }
    finally:
        database.close()


def test_settings_that_name_a_database_name_it_no_more(site: Region, archive: Path, tmp_path: Path) -> None:
    parts = members(archive)
    toml = b'parallel_downloads = 3\ndatabase = "postgresql://old/one"\n'
    listed = json.loads(parts["backup.json"])["members"]
    listed["bootplane.toml"] = [hashlib.sha256(toml).hexdigest(), len(toml)]
    file = write(tmp_path / "file", {**parts, "bootplane.toml": toml}, members=listed)
    restore(file, tmp_path / "data")
    with running(tmp_path / "data") as (region, _):
        assert region.settings.database is None and region.region_id == site.region_id
    assert "postgresql://old/one" in (tmp_path / "data" / "bootplane.toml").read_text()


def test_a_name_that_is_taken_is_refused(site: Region, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BackupError, match="expected a name that is free"):
        back_up(tmp_path / "file", site.settings.data)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_with_anything_in_it_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes").write_text("mine")
    with pytest.raises(BackupError, match="with nothing in it but image-storage, got one with 'notes'"):
        restore(archive, tmp_path / "data")
    with running(tmp_path / "other"), pytest.raises(BackupError, match="got one with 'admin-token'"):
        restore(archive, tmp_path / "other")


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])  # of the checksum over all of it


@pytest.mark.parametrize("harm", [cut, flip, lambda _raw: b"", lambda _raw: b"no backup at all" * 99])
def test_a_damaged_backup_leaves_nothing_behind(harm: Callable[[bytes], bytes], archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(harm(archive.read_bytes()))
    with pytest.raises(BackupError, match=r"file: (expected|region\.sqlite: expected)"):
        restore(tmp_path / "file", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_bit_that_flipped_anywhere_is_found_or_means_nothing(archive: Path, tmp_path: Path) -> None:
    raw, expected = archive.read_bytes(), members(archive)
    del expected["backup.json"]
    refused = 0
    for at in {*range(len(raw) - 64, len(raw)), *range(0, len(raw), len(raw) // 64)}:
        for bit in (0, 7):
            (tmp_path / "file").write_bytes(raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
            folder = tmp_path / f"{at}-{bit}"
            folder.mkdir()
            try:
                module._unpack(tmp_path / "file", folder)
            except BackupError:
                refused += 1
            else:  # zstd has bits that change nothing
                assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
            shutil.rmtree(folder)
    assert refused > 200


def test_what_a_backup_must_not_hold_is_refused(archive: Path, tmp_path: Path) -> None:
    parts = members(archive)
    listed = json.loads(parts["backup.json"])["members"]
    outside = "../admin-token"
    hostile = {**listed, outside: listed["admin-token"]}
    for number, (content, change, words) in enumerate(
        [
            ({**parts, "extra": b"x"}, {}, "got 'extra', too"),
            ({**parts, outside: b"x"}, {"members": hostile}, "expected members among"),
            ({k: v for k, v in parts.items() if k != "region-key"}, {}, "expected region-key, got the end"),
            ({**parts, "admin-token": b"another\n"}, {}, "admin-token: expected the sha256"),
            (parts, {"format": 2}, "expected format 1, got 2"),
            (parts, {"schema": "9999"}, "got 9999 of version"),
            (parts, {"members": "none"}, "backup.json cannot be read"),
        ]
    ):
        file = write(tmp_path / f"{number}", content, **change)
        with pytest.raises(BackupError) as refused:
            restore(file, tmp_path / "data")
        assert words in str(refused.value)
        assert list((tmp_path / "data").iterdir()) == []


def test_what_is_no_file_is_no_backup(tmp_path: Path) -> None:
    for name, words in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(BackupError, match=f"^{name}: expected a backup, got: {words}$"):
            restore(name, tmp_path / "data")


def test_a_link_in_a_backup_is_refused(tmp_path: Path) -> None:
    with packed(tmp_path / "file") as tar:
        member = tarfile.TarInfo("backup.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(BackupError, match=r"expected regular files, got 'backup\.json'"):
        restore(tmp_path / "file", tmp_path / "data")


def test_what_a_killed_restore_left_is_cleared_away(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / ".restore-1").mkdir(parents=True)
    (tmp_path / "data" / ".restore-1" / "region-key").write_text("half")
    restore(archive, tmp_path / "data")
    assert not (tmp_path / "data" / ".restore-1").exists()


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, when: Callable[..., bool]) -> Iterator[None]:
    """As SIGKILL just before *owner.name* is called with what *when* says yes to: nothing is cleared away."""
    call = getattr(owner, name)

    class Killed(BaseException):
        pass

    def stop(*words: Any, **options: Any) -> Any:
        if when(*words):
            raise Killed
        return call(*words, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, stop)
        patch.setattr(module.shutil, "rmtree", lambda *_words, **_options: None)
        yield


MOMENTS = [("region-key", "rename"), ("admin-token", "rename"), ("region.sqlite", "rename"), (".restoring", "unlink")]


@pytest.mark.parametrize(("name", "call"), MOMENTS)
def test_a_restore_that_was_killed_anywhere_is_made_again(
    name: str, call: str, site: Region, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with killed_at(monkeypatch, Path, call, when=lambda *words: words[-1] == data / name):
        restore(archive, data)
    with pytest.raises(StartError, match="expected a whole region, got one whose restore has not ended: run"):
        datadir.prepare(data)
    restore(archive, data)
    assert not [path for path in data.iterdir() if path.name.startswith(".")]
    with running(data) as (region, _):
        assert region.region_id == site.region_id
        assert region.key.secret_bytes() == site.key.secret_bytes()


@pytest.mark.parametrize("name", ["admin-token", ".restoring"])
def test_a_restore_into_postgresql_that_was_killed_is_made_again(
    name: str, archive: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    call = "unlink" if name == ".restoring" else "rename"  # after the rows have been committed, or before
    with killed_at(monkeypatch, Path, call, when=lambda *words: words[-1] == data / name):
        restore(archive, data, postgres_url)
    done = restore(archive, data, postgres_url)
    with running(data, database=postgres_url) as (region, client):
        assert region.region_id == done.region
        assert len(client.get("/api/v1/sources").json()["items"]) == 1


def test_a_backup_that_was_killed_leaves_no_keys_for_long(
    site: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at(monkeypatch, module, "_pack", when=lambda *_words: True):
        back_up(tmp_path / "one", site.settings.data)
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.stat().st_mode & 0o777 == 0o700 and (left / "region.sqlite").exists()
    back_up(tmp_path / "two", site.settings.data)
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_two_backups_at_one_time_leave_each_other_alone(
    site: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = module._pack

    def another_first(*words: Any) -> None:
        monkeypatch.undo()
        back_up(tmp_path / "second", site.settings.data)
        pack(*words)

    monkeypatch.setattr(module, "_pack", another_first)
    back_up(tmp_path / "first", site.settings.data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
    assert members(tmp_path / "first")["region-key"] == members(tmp_path / "second")["region-key"]


def test_a_disk_that_fills_up_under_the_snapshot_is_one_sentence(
    site: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_words: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(module, "_snapshot", full)
    with pytest.raises(BackupError, match=r"/file: cannot be read or written: database or disk is full"):
        back_up(tmp_path / "file", site.settings.data)
    assert not list(tmp_path.iterdir())


def test_a_second_restore_of_one_backup_is_newer_to_racks_than_the_first(archive: Path, tmp_path: Path) -> None:
    versions = []
    for turn, seconds in enumerate((0.0, 5.0)):
        with pytest.MonkeyPatch.context() as patch:
            now = time.time() + seconds
            patch.setattr(module.time, "time", lambda now=now: now)
            restore(archive, tmp_path / str(turn))
        with running(tmp_path / str(turn)) as (region, _):
            region.publisher.publish(region.publisher.current.contents)
            versions.append(region.publisher.current.version)
    assert versions[1] > versions[0] + 1 and versions[1] < 1 << 31


def test_a_backup_of_an_older_schema_is_brought_to_this_one(archive: Path, tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    parts = members(archive)
    old = tmp_path / "old.sqlite"
    old.write_bytes(parts["region.sqlite"])
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = sa.create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")
    engine.dispose()
    content = old.read_bytes()
    listed = json.loads(parts["backup.json"])["members"]
    listed["region.sqlite"] = [hashlib.sha256(content).hexdigest(), len(content)]
    file = write(tmp_path / "file", {**parts, "region.sqlite": content}, members=listed, schema="0006")
    done = restore(file, tmp_path / "data")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'region.sqlite'}")
    assert database.revision() == database.head() and done.schema == "0006"
    database.close()


def test_the_store_of_another_region_is_taken_in_file_by_file(
    site: Region, archive: Path, tmp_path: Path, signer: Signer
) -> None:
    """Nothing of it is deleted or believed for its name."""
    data = tmp_path / "data"
    shutil.copytree(site.settings.data / "image-storage", data / "image-storage")
    owner = json.loads((data / "image-storage/.owner").read_text())
    (data / "image-storage/.owner").write_text(json.dumps(owner | {"region": "another", "store": "x" * 32}))
    before = {path.name for path in (data / "image-storage").iterdir() if len(path.name) == 64}
    restore(archive, data)
    with running(data) as (_, client):
        banners = {each["id"] for each in client.get("/api/v1/status").json()["banners"]}
        assert "store-owner" in banners
        known = {path.name for path in (data / "image-storage").rglob("*") if len(path.name) == 64}
        assert before <= known


def test_a_backup_in_the_middle_of_a_sync_goes_on_from_there(tmp_path: Path, signer: Signer) -> None:
    publish_small(tmp_path / "source", signer)
    with serve(tmp_path / "source") as server:
        with running(tmp_path / "data") as (region, client):
            source = {"url": server.url, "keyring": base64.b64encode(signer.public()).decode()}
            assert client.post("/api/v1/sources", json=source).status_code == 201
            body = {"os": "ubuntu", "release": "noble", "arches": ["amd64"]}
            assert client.post("/api/v1/selections", json=body).status_code == 201
            taken: list[object] = []
            server.faults["noble/amd64/20250709/squashfs"] = Fault(  # its set has been decided and is not complete
                first=lambda: taken.append(back_up(tmp_path / "backup", tmp_path / "data")), times=1
            )
            assert synced(region, client)["state"] == "complete"
        assert taken
        restore(tmp_path / "backup", tmp_path / "restored")
        with running(tmp_path / "restored") as (region, client):
            assert not any(image["complete"] for image in client.get("/api/v1/images").json()["items"])
            assert synced(region, client)["state"] == "complete"
            assert all(image["complete"] for image in client.get("/api/v1/images").json()["items"])


def test_the_environments_database_is_the_regions(archive: Path, tmp_path: Path, postgres_url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BOOTPLANE_DATABASE", postgres_url)
        restore(archive, tmp_path / "data")
    assert not (tmp_path / "data" / "region.sqlite").exists()
    assert rows(postgres_url)["boot_sources"] == 1


@pytest.mark.parametrize("url", ["mysql://u:geheim@h/d", "postgresql://u:geheim@h:port/d", "geheim"])
def test_another_kind_of_database_is_one_sentence(url: str, archive: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="database: expected a URL like postgresql://USER@HOST:PORT/NAME, got") as said:
        restore(archive, tmp_path / "data", url)
    assert "geheim" not in str(said.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_no_room_is_said_before_anything_is_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _path: usage._replace(free=20 << 20))
    with pytest.raises(BackupError, match=r"expected \d+ bytes free, got 20971520"):
        parts = members(archive)
        huge = json.loads(parts["backup.json"])["members"] | {"region.sqlite": ["0" * 64, 1 << 30]}
        restore(write(tmp_path / "file", parts, members=huge), tmp_path / "data")


def test_a_directory_without_a_region_has_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="expected the data directory of a region"):
        back_up(tmp_path / "file", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_commands_say_what_they_did(site: Region, tmp_path: Path) -> None:
    words = ["--data", str(site.settings.data)]
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "b"), *words])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Backed up region {site.region_id}: ") and "keys" in done.stderr
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), "--data", str(tmp_path / "r")])
    assert done.exit_code == 0 and done.stdout.startswith(f"Restored region {site.region_id} as of ")
    done = CliRunner().invoke(app, ["restore", str(tmp_path / "b"), "--data", str(tmp_path / "r")])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    found = json.loads(CliRunner().invoke(app, ["backup", str(tmp_path / "c"), *words, "--json"]).stdout)
    assert found["region"] == site.region_id
