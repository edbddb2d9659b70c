from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bootplane.dataplane.catalogue import BlobEntry, CatalogueError
from bootplane.dataplane.chunklists import ChunkLists
from tests.fakes.region import chunks_of

DATA = bytes(2_500_000)
SHA = hashlib.sha256(DATA).hexdigest()
LIST = chunks_of(DATA)
ENTRY = BlobEntry(len(DATA), hashlib.sha256(LIST).hexdigest())


class Region:
    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def __call__(self, sha256: str) -> bytes | None:
        self.asked.append(sha256)
        return self.answer


def test_a_list_is_fetched_once_and_kept(tmp_path: Path) -> None:
    region = Region(LIST)
    assert ChunkLists(tmp_path / "chunks", region).get(SHA, ENTRY) == LIST
    assert ChunkLists(tmp_path / "chunks", region).get(SHA, ENTRY) == LIST
    assert region.asked == [SHA]


def test_a_list_with_another_root_is_refused_and_not_kept(tmp_path: Path) -> None:
    lists = ChunkLists(tmp_path, Region(b"x" * len(LIST)))
    with pytest.raises(CatalogueError, match=f"chunk list of {SHA}: expected root"):
        lists.get(SHA, ENTRY)
    assert list(tmp_path.iterdir()) == []


def test_a_rotten_file_is_as_good_as_none(tmp_path: Path) -> None:
    region = Region(LIST)
    lists = ChunkLists(tmp_path, region)
    (tmp_path / SHA).write_bytes(b"x" * len(LIST))
    assert lists.kept(SHA, ENTRY) is None
    assert lists.get(SHA, ENTRY) == LIST
    assert (tmp_path / SHA).read_bytes() == LIST


def test_a_list_that_cannot_be_kept_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert ChunkLists(tmp_path, Region(LIST)).get(SHA, ENTRY) == LIST
    assert "could not be kept: No space left on device" in caplog.text


def test_a_list_that_the_disk_cannot_read_is_as_good_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SHA).mkdir()
    assert ChunkLists(tmp_path, Region(LIST)).get(SHA, ENTRY) == LIST
    assert f"{tmp_path / SHA}: cannot be read: Is a directory; it is fetched again" in caplog.messages


def test_lists_that_cannot_be_removed_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / SHA).mkdir()
    ChunkLists(tmp_path, Region(LIST)).prune(())
    assert f"{tmp_path}: old chunk lists could not be removed: Is a directory" in caplog.messages


def test_a_list_no_region_has_is_none(tmp_path: Path) -> None:
    assert ChunkLists(tmp_path, Region(None)).get(SHA, ENTRY) is None


@pytest.mark.parametrize("data", [b"", b"one", bytes(1 << 20)])
def test_a_file_of_one_chunk_needs_no_question(tmp_path: Path, data: bytes) -> None:
    region = Region(None)
    chunks = chunks_of(data)
    entry = BlobEntry(len(data), hashlib.sha256(chunks).hexdigest())
    assert ChunkLists(tmp_path, region).get(hashlib.sha256(data).hexdigest(), entry) == chunks
    assert region.asked == []


def test_lists_of_blobs_that_are_gone_are_removed_and_foreign_files_stay(tmp_path: Path) -> None:
    lists = ChunkLists(tmp_path, Region(LIST))
    lists.get(SHA, ENTRY)
    (tmp_path / "notes").write_text("mine")
    lists.prune({SHA})
    assert {path.name for path in tmp_path.iterdir()} == {SHA, "notes"}
    lists.prune(set())
    assert {path.name for path in tmp_path.iterdir()} == {"notes"}
