"""Whose store is this? Every pair of an owner file and a database, and what becomes of the file."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.control.errors import StartError
from bootplane.control.storage.database import Database
from bootplane.control.storage.settings import SettingsRepository
from bootplane.control.sync import owner as owner_module
from bootplane.control.sync.owner import Claim, Owner, OwnerFile, Verdict, judge

FILE = Owner("store-1", "region-1", "db-1", 7, "2026-11-01T00:00:00")
OURS = Claim("db-1", "store-1", 7, knows_blobs=True)


@pytest.mark.parametrize(
    ("owner", "claim", "has_files", "verdict", "why"),
    [
        (None, Claim("db-1", "", 0, knows_blobs=False), False, "new", ""),
        (FILE, Claim("db-2", "", 0, knows_blobs=False), False, "new", ""),  # emptied by hand, database too
        (FILE, OURS, True, "ours", ""),
        (FILE, Claim("db-1", "store-1", 8, knows_blobs=True), True, "ours", ""),  # killed between the two halves
        (None, Claim("db-1", "", 0, knows_blobs=True), True, "ours", ""),  # of a version without owner files
        (None, Claim("db-1", "", 0, knows_blobs=False), True, "strange", "no owner file"),
        (None, OURS, True, "strange", "no owner file and had one before"),
        (FILE, Claim("db-2", "", 0, knows_blobs=False), True, "strange", "the database is new"),
        (FILE, Claim("db-2", "store-2", 9, knows_blobs=True), True, "strange", "expected store store-2, got store-1"),
        (FILE, Claim("db-2", "store-1", 9, knows_blobs=True), True, "strange", "database db-1, not db-2"),
        (FILE, Claim("db-1", "store-1", 4, knows_blobs=True), True, "strange", "3 changes behind"),
    ],
)
def test_what_a_file_and_a_database_mean_together(
    owner: Owner | None, claim: Claim, has_files: bool, verdict: str, why: str
) -> None:
    found = judge(owner, True, claim, has_files=has_files)
    assert found.verdict is Verdict(verdict)
    assert why in found.why and (found.why != "") == (verdict == "strange")


def test_a_file_that_cannot_be_read_is_strange() -> None:
    assert judge(None, False, OURS, has_files=True).verdict is Verdict.STRANGE


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    made.migrate()
    yield made
    made.close()


def file_of(tmp_path: Path, database: Database) -> OwnerFile:
    return OwnerFile(tmp_path, SettingsRepository(database), database.make_durable)


def test_each_start_counts_in_both_halves_and_the_identities_stay(tmp_path: Path, database: Database) -> None:
    seen = []
    for start in (1, 2, 3):
        file = file_of(tmp_path, database)
        owner, _ = file.read()
        claim = file.claim_of(knows_blobs=True)
        assert claim.count == start - 1 and (owner.count if owner else 0) == start - 1
        seen.append(file.take(owner, claim, "region-1", ""))
    assert len({(each.store, each.database, each.claimed, each.region) for each in seen}) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [".owner"]


def test_each_catalogue_counts_too_and_a_full_disk_is_only_told(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = file_of(tmp_path, database)
    file.take(None, file.claim_of(knows_blobs=False), "region-1", "")
    file.count(5)
    owner, _ = file.read()
    assert owner is not None and owner.catalogue == 5 and owner.count == 2 == file.claim_of(knows_blobs=True).count

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner_module, "write_durably", full)
    file.count(6)
    assert "cannot be written: No space left on device" in caplog.text
    again, _ = file.read()
    claim = file.claim_of(knows_blobs=True)
    assert again == owner and claim.count == 3
    assert judge(again, True, claim, has_files=True).verdict is Verdict.OURS


def test_a_newer_format_is_refused_in_one_sentence(tmp_path: Path, database: Database) -> None:
    (tmp_path / ".owner").write_text(json.dumps({"format": 2, "whatever": True}))
    with pytest.raises(StartError, match="expected a store of format 1, got 2: a newer bootplane has used it") as said:
        file_of(tmp_path, database).read()
    assert "\n" not in str(said.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', '{"format": "1"}', "\x00" * 100])
def test_nonsense_is_no_owner_and_no_traceback(tmp_path: Path, database: Database, text: str) -> None:
    (tmp_path / ".owner").write_text(text)
    assert file_of(tmp_path, database).read() == (None, False)


def test_a_killed_take_forgets_neither_that_the_store_is_strange_nor_whose_it_was(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path, database)
    file.take(FILE, Claim("db-1", "store-1", 7, knows_blobs=True), "region-1", "")
    owner, _ = file.read()
    assert owner is not None
    put = SettingsRepository.put

    def killed(self: SettingsRepository, values: dict[str, str]) -> None:
        put(self, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(SettingsRepository, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        file.take(owner, Claim("db-1", "store-1", 2, knows_blobs=True), "region-1", "set back")
    again, is_readable = file_of(tmp_path, database).read()
    assert is_readable and again is not None and (again.strange, again.count) == ("set back", owner.count)
