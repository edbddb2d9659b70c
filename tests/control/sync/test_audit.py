"""The audit: rot is found and what was found is judged, by bytes alone; nothing that is right is touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.sync import audit
from bootplane.control.sync.audit import Auditor, Finding
from bootplane.core.digest import Verified, sha256_hex
from bootplane.dataplane.store import Store

MIB = 1 << 20


class Site:
    """A store whose audit is stepped by hand; what followed from its findings, in words."""

    def __init__(self, folder: Path, interval_s: float) -> None:
        self.database = Database(f"sqlite:///{folder / 'x.sqlite'}")
        self.database.migrate()
        self.blobs, self.store = BlobRepository(self.database), Store(folder)
        self.followed: list[tuple[str, str]] = []
        self.findings: list[Finding] = []
        self.auditor = Auditor(self.store, self.blobs, self, interval_s=interval_s)

    def is_rotten(self, finding: Finding) -> None:
        self.followed.append(("rotten", finding.sha256))
        self.findings.append(finding)
        self.blobs.lose([finding.sha256])

    def is_missing(self, sha256: str) -> None:
        self.followed.append(("missing", sha256))
        self.blobs.lose([sha256])

    def is_adopted(self, verified: Verified) -> None:
        self.followed.append(("adopted", verified.sha256))
        self.blobs.record([BlobRecord(verified.sha256, verified.size, verified.root)])

    def is_refused(self, finding: Finding) -> None:
        self.followed.append(("refused", finding.sha256))
        self.store.aside.put(finding.path, None)

    def put(self, data: bytes, *, is_checked: bool = False) -> str:
        sha256 = sha256_hex(data)
        with self.store.begin(sha256, len(data)) as ingest:
            ingest.write(data)
            root = ingest.commit().root
        self.blobs.record([BlobRecord(sha256, len(data), root)], is_checked=is_checked)
        return sha256

    def run(self) -> None:
        """Until there is nothing to do."""
        for _ in range(1000):
            if self.auditor.step() >= min(audit.NOTHING_S, self.auditor.interval_s or audit.NOTHING_S):
                return
        raise AssertionError("the audit does not come to its end")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, 3600.0)
    yield made
    made.auditor.stop()
    made.database.close()


def spoil(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 8 * MIB, 8 * MIB + 1, 17 * MIB])
def test_a_right_file_of_any_size_is_seen_once(site: Site, size: int) -> None:
    sha256 = site.put(os.urandom(size))
    site.run()
    site.run()
    assert site.followed == [] and site.auditor.stats.checked == 1 and site.auditor.stats.bytes == size
    assert site.blobs.due("") is None and site.store.has(sha256, size)


def test_one_flipped_bit_is_found_and_was_looked_at_twice(site: Site) -> None:
    right, data = site.put(b"right"), os.urandom(9 * MIB)
    rotten = site.put(data)
    spoil(site.store.path_of(rotten), 8 * MIB + 5)
    site.run()
    assert site.followed == [("rotten", rotten)]
    assert site.findings[0].expected == rotten and len(site.findings[0].got) == 64
    assert site.auditor.stats.bytes == 5 + 2 * len(data) and site.blobs.get(right) is not None


def test_a_wrong_look_at_one_file_is_not_held_against_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = sorted(site.put(os.urandom(9 * MIB)) for _ in range(2))
    for each in (first, second):
        spoil(site.store.path_of(each), 0)

    def vanishes(path: Path) -> int:
        site.blobs.take_away([first])
        monkeypatch.undo()
        raise FileNotFoundError(path)

    site.auditor.step()
    monkeypatch.setattr(audit, "open_direct", vanishes)
    site.auditor.step()  # wrong, and gone before the second look
    site.auditor.step()
    site.auditor.step()  # the other one, wrong for the first time
    spoil(site.store.path_of(second), 0)  # right again: the disk's cable, say
    site.run()
    assert site.followed == [] and site.auditor.stats.checked == 1


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_of_another_length_is_rotten(site: Site, size: int) -> None:
    rotten = site.put(b"x" * 4000)
    os.truncate(site.store.path_of(rotten), size)
    site.run()
    assert site.followed == [("rotten", rotten)]
    assert site.findings[0].expected.startswith("4000 bytes")


def test_a_file_that_vanished_is_missing(site: Site) -> None:
    sha256 = site.put(b"x")
    site.store.path_of(sha256).unlink()
    site.run()
    assert site.followed == [("missing", sha256)]


def test_what_left_the_database_meanwhile_is_nobodys_concern(site: Site) -> None:
    sha256 = site.put(os.urandom(9 * MIB))
    spoil(site.store.path_of(sha256), 0)
    site.auditor.step()
    site.blobs.lose([sha256])
    site.run()
    assert site.followed == []


def test_the_one_seen_longest_ago_comes_first_and_only_after_the_interval(site: Site) -> None:
    site.put(b"just fetched", is_checked=True)
    site.run()
    assert site.auditor.stats.checked == 0
    site.auditor.interval_s = 1e-6
    assert site.blobs.due(site.auditor.before()) is not None
    site.auditor.interval_s = 0.0
    site.run()
    assert site.auditor.stats.checked == 0


def test_a_new_start_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    first = Site(tmp_path, 3600.0)
    for number in range(3):
        first.put(b"%d" % number)
    first.auditor.step()
    first.auditor.stop()
    first.database.close()
    second = Site(tmp_path, 3600.0)
    second.run()
    second.database.close()
    assert (first.auditor.stats.checked, second.auditor.stats.checked) == (1, 2)


def test_a_found_file_that_is_what_its_name_says_becomes_a_blob_with_its_chunk_list(site: Site) -> None:
    data = os.urandom(2 * MIB + 7)
    sha256 = sha256_hex(data)
    site.store.found_path(sha256).write_bytes(data)
    site.run()
    assert site.followed == [("adopted", sha256)]
    assert site.store.path_of(sha256).read_bytes() == data and site.store.found() == {}
    assert len(site.store.chunk_list(sha256)) == 3 * 32 and site.blobs.due("") is None


def test_a_found_file_that_is_something_else_is_refused_and_not_deleted(site: Site) -> None:
    site.store.found_path("ab" * 32).write_bytes(b"something else")
    site.run()
    assert site.followed == [("refused", "ab" * 32)] and site.store.found() == {}
    [kept] = site.store.aside.kept()
    assert kept.path.read_bytes() == b"something else" and not site.store.has("ab" * 32)


def test_a_disk_that_cannot_read_it_is_rot_and_any_other_refusal_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = site.put(b"x" * 4000)
    number = errno.EMFILE

    def refused(path: Path) -> int:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(audit, "open_direct", refused)
        assert site.auditor.step() == audit.FAILED_S
    assert site.followed == []

    def unreadable(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", unreadable)
        site.auditor.step()
        site.auditor.step()
    assert site.followed == [("rotten", sha256)] and site.findings[0].got == os.strerror(errno.EIO)


def test_a_sync_that_wants_a_found_file_verifies_it_itself(site: Site) -> None:
    data = os.urandom(9 * MIB)
    sha256 = sha256_hex(data)
    site.store.found_path(sha256).write_bytes(data)
    site.auditor.step()  # has it open
    assert site.store.kept_bytes(sha256) == len(data)
    assert not site.store.verify_found(sha256, len(data) - 1)
    assert site.store.verify_found(sha256, len(data)) and site.store.has(sha256, len(data))
    site.run()
    assert site.followed == [] and not site.store.verify_found(sha256, len(data))


def test_a_sync_leaves_a_wrong_found_file_to_the_audit(site: Site) -> None:
    site.store.found_path("ab" * 32).write_bytes(b"wrong")
    assert not site.store.verify_found("ab" * 32, 5)
    assert site.store.found() == {"ab" * 32: 5}
