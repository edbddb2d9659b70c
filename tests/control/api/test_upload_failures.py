"""An upload that something fails under: disk, database, a kill between two steps. What stays, and who goes on."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from bootplane.control.app import Region
from bootplane.control.errors import Gone
from bootplane.control.storage.models import UploadRow
from bootplane.dataplane import store as store_module
from tests.control.api.test_routes import problem
from tests.control.api.test_uploads import announced, begun, bulk, names, put, sha, uploaded
from tests.fakes import archives
from tests.fakes.regions import running

WAIT_S = 30.0


@pytest.fixture
def tgz(tmp_path: Path) -> bytes:
    return archives.archive(tmp_path, "tgz").read_bytes()


def until(is_so: Callable[[], bool], what: str) -> None:
    """The job of uploads does it, on a thread of its own."""
    tick = threading.Event()
    for _ in range(int(WAIT_S / 0.05)):
        if is_so():
            return
        tick.wait(0.05)
    raise AssertionError(f"expected {what} within {WAIT_S:g} s")


def until_offered(region: Region, data: bytes) -> None:
    """The very last step."""
    until(lambda: sha(data) in names(region).values(), "a name for it")


def test_a_region_killed_between_the_last_byte_and_the_files_name_ends_the_upload_when_it_is_back(
    tmp_path: Path, tgz: bytes
) -> None:
    with running(tmp_path / "data") as (region, client):
        upload = begun(client, announced(("root-tgz", tgz)))
        part = region.store.partial_path(sha(tgz))
    part.write_bytes(tgz)  # all of it, and killed while it was made durable
    with running(tmp_path / "data") as (region, client):
        until_offered(region, tgz)
        assert client.get(f"/api/v1/uploads/{upload['id']}").json()["state"] == "complete"
        assert bulk(region, sha(tgz)) == tgz and region.store.partials() == []


def test_a_whole_part_of_other_bytes_is_thrown_away_and_the_client_begins_anew(tmp_path: Path, tgz: bytes) -> None:
    with running(tmp_path / "data") as (region, client):
        upload = begun(client, announced(("root-tgz", tgz)))
        part = region.store.partial_path(sha(tgz))
    part.write_bytes(bytes(len(tgz)))
    with running(tmp_path / "data") as (region, client):
        until(lambda: region.store.partials() == [], "the part to go")
        until(lambda: region.uploads.get(upload["id"])["state"] == "failed", "a refusal")
        again = begun(client, announced(("root-tgz", tgz)))
        assert (again["state"], again["done"]) == ("receiving", 0)
        assert put(client, again, "root-tgz", tgz).json()["state"] == "complete"
        assert bulk(region, sha(tgz)) == tgz


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 507), (errno.EIO, 503)])
def test_a_disk_that_fails_at_the_very_end_is_told_in_a_sentence_and_needs_no_byte_again(
    region: Region, client: TestClient, tgz: bytes, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))

    def failing(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "write_durably", failing)
        detail = problem(put(client, upload, "root-tgz", tgz), status)
    assert os.strerror(number) in detail and "what has arrived is kept" in detail
    assert begun(client, announced(("root-tgz", tgz)))["done"] == len(tgz)
    region.uploads._turn()
    until_offered(region, tgz)
    assert bulk(region, sha(tgz)) == tgz


def test_a_database_that_fails_while_a_file_is_opened_keeps_nobody_else_from_it(
    region: Region, client: TestClient, tgz: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))

    def locked(*_: Any) -> None:
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database is locked"))

    with monkeypatch.context() as patched:
        patched.setattr(region.uploads._rows, "touch", locked)
        with pytest.raises(sa.exc.OperationalError):
            region.uploads.open(upload["id"], "root-tgz", 0, len(tgz))
    assert put(client, upload, "root-tgz", tgz).json()["state"] == "complete"


def test_a_part_that_cannot_be_opened_is_told_in_a_sentence(
    region: Region, client: TestClient, tgz: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))

    def failing(*_: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "part")

    with monkeypatch.context() as patched:
        patched.setattr(region.store, "begin", failing)
        assert "Read-only file system" in problem(put(client, upload, "root-tgz", tgz), 503)
    assert put(client, upload, "root-tgz", tgz).json()["state"] == "complete"


def test_a_client_that_leaves_a_cancelled_upload_leaves_nothing_there(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    for ends in ("abandon", "end"):
        upload = begun(client, announced(("root-tgz", tgz)))
        receiving = region.uploads.open(upload["id"], "root-tgz", 0, len(tgz))
        receiving.write(tgz if ends == "end" else tgz[:5000])
        client.delete(f"/api/v1/uploads/{upload['id']}")
        if ends == "end":
            with pytest.raises(Gone, match="it was cancelled"):
                receiving.end()
        else:
            receiving.abandon()
        assert region.store.partials() == [] and not region.store.has(sha(tgz)), ends
        assert region.store._reserved == 0


def test_a_part_that_begins_while_removal_looks_around_stays(
    region: Region, client: TestClient, tgz: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, part = region.blobs.mark, region.store.partial_path(sha(tgz))

    def mark(*words: Any) -> tuple[int, int]:
        begun(client, announced(("root-tgz", tgz)))
        part.write_bytes(tgz[:5000])
        return real(*words)

    with monkeypatch.context() as patched:
        patched.setattr(region.blobs, "mark", mark)
        region.removal.step()
    assert part.exists()


def test_what_another_upload_wants_stays_when_one_is_cancelled(region: Region, client: TestClient, tgz: bytes) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    twin = begun(client, announced(("root-tgz", tgz), name="twin"))
    receiving = region.uploads.open(upload["id"], "root-tgz", 0, len(tgz))
    receiving.write(tgz[:5000])
    client.delete(f"/api/v1/uploads/{upload['id']}")
    with pytest.raises(Gone):
        receiving.write(tgz[5000:6000])
    receiving.abandon()
    assert put(client, twin, "root-tgz", tgz, 5000).json()["state"] == "complete"


def test_a_file_that_takes_longer_than_a_part_is_kept_is_kept_when_it_breaks(
    region: Region, client: TestClient, tgz: bytes
) -> None:
    upload = begun(client, announced(("root-tgz", tgz)))
    receiving = region.uploads.open(upload["id"], "root-tgz", 0, len(tgz))
    receiving.write(tgz[:5000])
    with region.database.begin() as session:  # a day and a half of bytes later
        long_ago = (datetime.now(UTC) - timedelta(hours=36)).isoformat(timespec="microseconds")
        session.execute(sa.update(UploadRow).values(touched=long_ago))
    region.uploads._turn()
    receiving.abandon()
    region.uploads._turn()
    assert client.get(f"/api/v1/uploads/{upload['id']}").json()["done"] == 5000


def test_the_seventeenth_file_at_a_time_is_told_to_wait(region: Region, client: TestClient, tgz: bytes) -> None:
    coming = []
    for number in range(16):
        data = tgz + bytes([number])
        upload = begun(client, announced(("root-tgz", data), name=f"web{number}"))
        coming.append(region.uploads.open(upload["id"], "root-tgz", 0, len(data)))
    upload = begun(client, announced(("root-tgz", tgz)))
    answer = put(client, upload, "root-tgz", tgz)
    assert "expected at most 16 files at a time" in problem(answer, 409)
    assert answer.json()["type"] == "urn:bootplane:busy"
    for receiving in coming:
        receiving.abandon()
    assert uploaded(client, tgz)["state"] == "complete"
