"""A region starts on a store that is not as the database has it: what was cut, lost, spoilt or is a stranger; a lost
database; a store of somebody else. Nothing verified is lost, nothing is hashed before the region answers."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.domain.images import BootResource, ResourceFile, ResourceSet
from bootplane.control.errors import StartError
from bootplane.control.simplestreams.signer import Signer
from bootplane.control.storage.blobs import BlobRecord
from bootplane.control.storage.images import WantedSet
from bootplane.control.sync import audit
from bootplane.core.digest import Verifier, chunk_root, sha256_hex
from bootplane.dataplane import store as store_module
from tests.fakes.mirror import Fault, MirrorServer, publish_small
from tests.fakes.regions import ENDS_S, running, synced

GA = "ubuntu/noble/amd64/ga-24.04"
FILES = 1000


def until(true: Callable[[], Any], what: str) -> None:
    tick = threading.Event()
    for _ in range(int(ENDS_S / 0.05)):
        if true():
            return
        tick.wait(0.05)
    raise AssertionError(f"expected {what} within {ENDS_S:.0f} s")


@contextmanager
def filled(data: Path, source: dict[str, Any], **settings: Any) -> Iterator[tuple[Region, TestClient]]:
    """A region that has the mirror's noble for amd64."""
    with running(data, **settings) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
        assert synced(region, client)["state"] == "complete"
        yield region, client


def crowd(region: Region, count: int) -> None:
    """*count* further small files with their rows, chunk lists and sets, as an earlier sync would have left them."""
    store, source = region.store, region.sources.list()[0].source.id
    records, wanted = [], []
    for number in range(count):
        data = b"file %d" % number
        sha256 = sha256_hex(data)
        verifier = Verifier(sha256, len(data))
        verifier.update(data)
        chunks = verifier.finish().chunks
        store.path_of(sha256).write_bytes(data)
        (store.directory / ".chunks" / sha256).write_bytes(chunks)
        records.append(BlobRecord(sha256, len(data), chunk_root(chunks)))
        resource = BootResource("crowd", "amd64", f"r{number}", "generic", "stable")
        file = ResourceFile("root-tgz", "root-tgz", sha256, len(data))
        wanted.append(WantedSet(ResourceSet(resource, "1", (file,)), source, {"root-tgz": f"f{number}"}))
    region.blobs.record(records)
    region.images.decide(wanted, (), ())
    region.images.complete(each.id for each in region.images.sets() if each.resource_set.resource.os == "crowd")


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def files_of(client: TestClient, name: str = GA) -> dict[str, str]:
    return {file["name"]: file["sha256"] for file in client.get(f"/api/v1/images/{name}").json()["files"]}


def banners(client: TestClient) -> dict[str, str]:
    return {each["id"]: each["text"] for each in client.get("/api/v1/status").json()["banners"]}


def catalogue(client: TestClient) -> dict[str, int]:
    found: dict[str, int] = client.get("/api/v1/status").json()["catalogue"]
    return found


def test_of_a_thousand_files_one_is_cut_one_rotten_one_unknown_and_one_missing(
    tmp_path: Path, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with filled(tmp_path / "d", source) as (region, client):
        cut, rotten, missing = (files_of(client)[name] for name in ("boot-kernel", "boot-initrd", "squashfs"))
        crowd(region, FILES - len(region.blobs.present()))
        store = region.store
    os.truncate(store.path_of(cut), 1000)
    spoil(store.path_of(rotten))
    store.path_of(missing).unlink()
    (store.directory / "somebodys.iso").write_bytes(b"unknown")

    hashed: list[str] = []
    may_hash = threading.Event()

    class Counted(audit.Verifier):  # type: ignore[misc]
        def __init__(self, sha256: str, size: int, name: str) -> None:
            hashed.append(name)
            if not may_hash.wait(ENDS_S):
                raise AssertionError("the audit was held for too long")
            super().__init__(sha256, size, name)

    monkeypatch.setattr(audit, "Verifier", Counted)
    monkeypatch.setattr(store_module, "Verifier", Counted)
    caplog.set_level("INFO", "bootplane.store")
    began = time.monotonic()
    with running(tmp_path / "d", audit_interval=1e-9) as (region, client):
        assert client.get("/healthz").status_code == 200  # while the first file is still to be hashed
        print(f"\na region with {FILES} files is ready after {time.monotonic() - began:.2f} s")
        assert region.custody.auditor.stats.bytes == 0 and len(hashed) <= 5  # the audit's one, and those fetched again
        assert not region.custody.is_strange
        assert banners(client)["store-damaged"] == f"Files of {store.directory} that were cut: 1."
        may_hash.set()
        until(lambda: region.custody.auditor.stats.rotten, "the rotten file to be found")
        until(lambda: {cut, rotten, missing} <= region.blobs.present().keys(), "all of it to be fetched again")
        assert region.coordinator.wait_ended(ENDS_S)
        for sha256 in (cut, rotten, missing):
            assert sha256_hex(store.path_of(sha256).read_bytes()) == sha256
        until(lambda: GA in {i["name"] for i in client.get("/api/v1/images").json()["items"] if i["complete"]}, GA)
        kept = {each.path.name: each for each in store.aside.kept()}
        assert set(kept) == {cut, rotten, "somebodys.iso"} and all(each.until for each in kept.values())
        status = client.get("/api/v1/status").json()["store"]
        assert (status["aside"]["files"], status["audit"]["rotten"]) == (3, 1)
        assert "store-damaged" in banners(client) and GA in banners(client)["store-damaged"]
    lines = [record.getMessage() for record in caplog.records]
    for words in (
        (cut, "expected 30000 bytes, got 1000", "set aside, kept until", "fetching it again"),
        (missing, "got none", "fetching it again"),
        (rotten, GA, "damaged on the disk: expected", "set aside as", "fetching it again"),
        ("somebodys.iso, 7 bytes", "not a file of this store", "kept until"),
    ):
        assert sum(all(word in line for word in words) for line in lines) == 1, (words, lines)


def lose_database(data: Path) -> None:
    for path in data.glob("*.sqlite*"):
        path.unlink()


def test_a_lost_database_costs_no_file_and_no_second_download(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer
) -> None:
    data = tmp_path / "d"
    with filled(data, source, removal_grace=0) as (region, client):
        before = {sha256: region.store.path_of(sha256).read_bytes() for sha256, _ in region.store.complete()}
        version = catalogue(client)["version"]
    store = data / "image-storage"
    rotten = next(sha256 for sha256, content in before.items() if len(content) > 50_000)
    spoil(store / rotten)
    (store / "notes.txt").write_bytes(b"a stranger")
    lose_database(data)
    fetched = dict(mirror.sent)
    with running(data, removal_grace=0) as (region, client):
        assert region.custody.is_strange
        said = f"{len(before) - 1} files are taken in, 2 set aside"
        until(lambda: said in banners(client)["store-owner"], "every file to be hashed")
        assert set(region.blobs.present()) == before.keys() - {rotten}
        assert "the database is new" in banners(client)["store-owner"]
        assert {each.path.name for each in region.store.aside.kept()} == {rotten, "notes.txt"}
        assert all(each.until is None for each in region.store.aside.kept())
        region.coordinator.request()  # nothing is selected: nothing is named, and yet nothing goes
        assert region.coordinator.wait_ended(ENDS_S)
        assert set(region.blobs.present()) == before.keys() - {rotten}
        assert catalogue(client) == {"version": 1, "names": 0}  # which racks refuse: they serve what they hold

    with filled(data, source, removal_grace=0) as (region, client):  # another start, and the operator's words again
        until(lambda: not region.custody.is_strange or not region.custody.may_delete(), "it to be settled")
        until(lambda: "store-owner" not in banners(client), "the banner to end")
        for sha256, content in before.items():
            assert region.store.path_of(sha256).read_bytes() == content
        again = {path for path, count in mirror.sent.items() if count != fetched.get(path, 0)}
        assert {path for path in again if not path.startswith("streams/")} == {
            next(path for path in mirror.sent if sha256_hex((mirror.root / path).read_bytes()) == rotten)
        }
        assert len(region.store.aside.kept()) == 2  # what was put aside then stays
        assert catalogue(client)["version"] > version  # racks refuse an older one


def found_again(region: Region, client: TestClient, source: dict[str, Any]) -> None:
    """After a lost database: every file was hashed, and the operator has said again what is wanted."""
    until(lambda: "files are taken in, 0 set aside" in banners(client)["store-owner"], "every file to be hashed")
    client.post("/api/v1/sources", json=source)
    client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})


def test_a_file_that_no_source_has_right_does_not_keep_a_store_strange(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer
) -> None:
    data = tmp_path / "d"
    with filled(data, source) as (region, client):
        kernel, before = files_of(client)["boot-kernel"], set(region.blobs.present())
    lose_database(data)
    (data / "image-storage" / kernel).unlink()
    mirror.faults["noble/amd64/20250709/ga-24.04/generic/boot-kernel"] = Fault(body=b"x" * 30_000)
    with running(data, removal_grace=0) as (region, client):
        found_again(region, client, source)
        assert synced(region, client)["state"] == "failed"
        region.removal.step()
        assert not region.custody.is_strange and "store-owner" not in banners(client)
        assert set(region.blobs.present()) == before - {kernel}


def test_while_it_is_not_known_what_is_wanted_a_store_stays_strange(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer
) -> None:
    data = tmp_path / "d"
    with filled(data, source) as (region, _client):
        before = set(region.blobs.present())
    lose_database(data)
    with running(data, removal_grace=0) as (region, client):
        found_again(region, client, source)
        other = {"os": "ubuntu", "release": "jammy", "arches": ["amd64"]}  # which nobody offers, just now
        added = client.post("/api/v1/selections", json=other).json()
        assert synced(region, client)["state"] == "failed"
        region.removal.step()
        assert region.custody.is_strange and set(region.blobs.present()) == before
        client.delete(f"/api/v1/selections/{added['id']}")
        assert synced(region, client)["state"] == "complete"
        until(lambda: region.custody.may_delete(), "the store to be settled")


def test_a_database_from_a_backup_is_behind_its_store_and_deletes_nothing(
    tmp_path: Path, source: dict[str, Any], mirror: MirrorServer
) -> None:
    data = tmp_path / "d"
    with running(data) as (region, client):
        client.post("/api/v1/sources", json=source)
        client.post("/api/v1/selections", json={"os": "ubuntu", "release": "noble", "arches": ["amd64"]})
    backup = {path.name: path.read_bytes() for path in data.glob("*.sqlite*")}
    with running(data, removal_grace=0) as (region, client):
        assert synced(region, client)["state"] == "complete"
        before = set(region.blobs.present())
    lose_database(data)
    for name, content in backup.items():
        (data / name).write_bytes(content)
    fetched = {path: count for path, count in mirror.sent.items() if not path.startswith("streams/")}
    with running(data, removal_grace=0) as (region, client):
        assert "behind it: it was set back" in banners(client)["store-owner"]
        assert synced(region, client)["state"] == "complete"
        assert set(region.blobs.present()) == before
        until(lambda: region.custody.may_delete(), "the store to be settled")
    assert {path: count for path, count in mirror.sent.items() if not path.startswith("streams/")} == fetched
    with running(data) as (region, client):
        assert not region.custody.is_strange and banners(client) == {}


def test_a_backup_of_the_same_start_is_behind_what_came_after_it(
    tmp_path: Path, source: dict[str, Any], signer: Signer
) -> None:
    data = tmp_path / "d"
    with filled(data, source, removal_grace=0) as (region, client):
        region.database.make_durable()
        backup = (data / "region.sqlite").read_bytes()
        publish_small(tmp_path / "mirror", signer, serial="20260101", updated=datetime.now(UTC) + timedelta(hours=1))
        synced(region, client)
        before = set(region.blobs.present())
    lose_database(data)
    (data / "region.sqlite").write_bytes(backup)
    with running(data, removal_grace=0) as (region, client):
        assert "behind it: it was set back" in banners(client)["store-owner"]
        until(lambda: before <= region.blobs.present().keys(), "every file to be taken in")
        region.removal.step()
        assert before <= region.blobs.present().keys()


def test_a_store_that_is_not_mounted_is_said_and_its_return_costs_nothing(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    data = tmp_path / "d"
    with filled(data, source) as (region, client):
        before = set(region.blobs.present())
    (data / "image-storage").rename(tmp_path / "unmounted")
    with running(data) as (region, client):
        assert "holds none of the files" in banners(client)["store-emptied"]
        assert region.coordinator.wait_ended(ENDS_S)
    (data / "image-storage").rename(tmp_path / "wrong disk")
    (tmp_path / "unmounted").rename(data / "image-storage")
    with running(data) as (region, client):
        until(lambda: set(region.blobs.present()) == before and not region.store.found(), "all files to be known again")
        assert region.store.aside.kept() == []


def test_files_an_operator_has_copied_into_the_store_are_taken_in_when_they_are_right(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    with filled(tmp_path / "d", source) as (region, _client):
        store = region.store
    data = os.urandom(3 << 20)
    sha256 = sha256_hex(data)
    store.path_of(sha256).write_bytes(data)
    store.path_of("ab" * 32).write_bytes(b"wrong")
    with running(tmp_path / "d") as (region, _client):
        until(lambda: region.blobs.get(sha256) and store.aside.kept(), "both to be hashed")
        [kept] = store.aside.kept()
        assert kept.path.name == "ab" * 32 and kept.until is not None


def test_after_a_bad_end_what_was_written_is_hashed_again_and_after_a_good_one_not(
    tmp_path: Path, source: dict[str, Any]
) -> None:
    data = tmp_path / "d"
    with filled(data, source) as (region, _client):
        count = len(region.blobs.present())
        assert region.blobs.checks("").due == 0
    with running(data) as (region, _client):
        assert region.custody.auditor.stats.checked == 0 and region.blobs.checks("").oldest
        opened = min(row["created"] for row in rows(region))
        region.settings_rows.put({"store_open_since": opened})
        region.custody.leave = lambda: None  # type: ignore[method-assign]
    with running(data) as (region, _client):
        until(lambda: region.custody.auditor.stats.checked == count, "all of them to be hashed")
        assert region.custody.auditor.stats.rotten == 0


def rows(region: Region) -> list[dict[str, Any]]:
    import sqlalchemy as sa

    with region.database.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.text("select * from blobs"))]


def test_what_a_rack_refused_is_looked_at_and_mended_long_before_its_week(
    tmp_path: Path, source: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "NOTHING_S", 0.05)
    with filled(tmp_path / "d", source) as (region, client):
        rotten = files_of(client)["squashfs"]
        path = region.store.path_of(rotten)
        spoil(path)
        region.custody.doubt({rotten, "ab" * 32})
        until(lambda: region.custody.auditor.stats.rotten == 1, "the damage to be found")
        until(lambda: path.exists() and sha256_hex(path.read_bytes()) == rotten, "it to be fetched again")
        until(lambda: region.blobs.get(rotten), "its row")
        assert region.blobs.checks("").due == 0


def test_two_regions_on_one_store_are_refused_in_one_sentence(tmp_path: Path) -> None:
    expected = "image-storage: expected to be the only region here, got one already: pid"
    with running(tmp_path / "one") as (region, _client):
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "image-storage").symlink_to(region.store.directory)
        with pytest.raises(StartError, match=expected), running(tmp_path / "two"):
            raise AssertionError("it has started")


def test_a_store_of_a_newer_format_is_refused_and_left_as_it_is(tmp_path: Path, source: dict[str, Any]) -> None:
    with filled(tmp_path / "d", source) as (region, _client):
        owner = region.store.directory / ".owner"
    document = json.loads(owner.read_text()) | {"format": 2, "more": []}
    owner.write_text(json.dumps(document))
    (owner.parent / "stranger").write_bytes(b"s")
    with running(tmp_path / "d") as (region, _client):
        assert "expected a store of format 1, got 2: a newer bootplane has used it" in region.failure
    assert json.loads(owner.read_text()) == document and (owner.parent / "stranger").exists()
