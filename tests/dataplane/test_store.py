from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bootplane.core.status import DigestMismatch, Truncated
from bootplane.dataplane.store import InsufficientSpace, Store, StoreError

DATA = bytes(range(256)) * 10_000  # 2.44 MiB: three chunks, the last one short
SHA = hashlib.sha256(DATA).hexdigest()


def names(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


def put(store: Store, data: bytes = DATA, step: int = 70_000) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    with store.begin(sha256, len(data), "file") as ingest:
        for at in range(0, len(data), step):
            ingest.write(data[at : at + step])
        ingest.commit()
    return sha256


def test_a_verified_file_gets_its_final_name_and_its_chunk_list(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.begin(SHA, len(DATA), "boot-kernel") as ingest:
        ingest.write(DATA)
        assert not store.has(SHA)
        verified = ingest.commit()
    chunks = b"".join(hashlib.sha256(DATA[i : i + (1 << 20)]).digest() for i in range(0, len(DATA), 1 << 20))
    assert (verified.sha256, verified.size, verified.chunks) == (SHA, len(DATA), chunks)
    assert store.path_of(SHA).read_bytes() == DATA
    assert store.chunk_list(SHA) == chunks
    assert store.has(SHA, len(DATA))
    assert not store.has(SHA, len(DATA) - 1)
    assert names(store.directory) == {SHA, f".chunks/{SHA}"}


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    sha256 = put(store, b"")
    assert store.has(sha256, 0)
    assert store.chunk_list(sha256) == b""


def test_pieces_of_any_size_make_the_same_file(tmp_path: Path) -> None:
    for step in (4095, 1 << 20, (1 << 20) + 1, len(DATA)):
        store = Store(tmp_path / str(step))
        put(store, DATA, step)
        assert store.path_of(SHA).read_bytes() == DATA


def test_a_wrong_digest_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wrong = DATA[:-1] + b"!"
    refusal = pytest.raises(DigestMismatch, match=f"squashfs: sha256 differs: expected {SHA}, got ")
    with refusal, store.begin(SHA, len(DATA), "squashfs") as ingest:
        ingest.write(wrong)
        ingest.commit()
    assert names(store.directory) == set()


def test_a_refused_commit_ends_the_ingest_by_itself(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ingest = store.begin(SHA, len(DATA))
    ingest.write(DATA[:-1])
    with pytest.raises(DigestMismatch, match=f"size: expected {len(DATA)} bytes, got {len(DATA) - 1}"):
        ingest.commit()
    assert names(store.directory) == set()
    with store.begin(SHA, len(DATA)) as again:
        assert again.offset == 0


def test_a_byte_too_many_is_refused_when_it_arrives_and_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DigestMismatch, match="squashfs"), store.begin(SHA, len(DATA), "squashfs") as ingest:
        ingest.write(DATA)
        ingest.write(b"!")
    assert names(store.directory) == set()


def test_a_stopped_download_resumes_where_it_was(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.begin(SHA, len(DATA)) as ingest:
        ingest.write(DATA[:1_500_000])
    assert not store.has(SHA)
    assert store.partials() == [SHA]
    with Store(tmp_path).begin(SHA, len(DATA)) as ingest:
        assert ingest.offset == 1_500_000
        ingest.write(DATA[1_500_000:])
        ingest.commit()
    assert store.path_of(SHA).read_bytes() == DATA


def test_a_rotten_prefix_is_found_when_the_file_is_complete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.partial_path(SHA).write_bytes(b"x" * 1000)
    with pytest.raises(DigestMismatch), store.begin(SHA, len(DATA)) as ingest:
        assert ingest.offset == 1000
        ingest.write(DATA[1000:])
        ingest.commit()
    assert names(store.directory) == set()


def test_a_prefix_longer_than_the_file_is_thrown_away(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.partial_path(SHA).write_bytes(b"x" * (len(DATA) + 1))
    with store.begin(SHA, len(DATA)) as ingest:
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()
    assert store.path_of(SHA).read_bytes() == DATA


def test_a_source_that_cannot_resume_starts_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.begin(SHA, len(DATA)) as ingest:
        ingest.write(DATA[:1_500_000])
        ingest.restart()
        assert ingest.offset == 0
        ingest.write(DATA)
        ingest.commit()
    assert store.path_of(SHA).read_bytes() == DATA


def test_one_blob_has_one_writer(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.begin(SHA, len(DATA)) as first:
        with pytest.raises(StoreError, match="expected one writer at a time"):
            store.begin(SHA, len(DATA))
        first.discard()
    with store.begin(SHA, len(DATA)) as second:
        second.discard()
    assert names(store.directory) == set()


def test_reservations_count_until_their_bytes_are_written_or_released(tmp_path: Path) -> None:
    store = Store(tmp_path, keep_free_bytes=0)
    free = store.free_bytes()
    half = free // 2
    with store.reserve(half):
        with pytest.raises(InsufficientSpace) as caught:
            store.reserve(free)
        assert caught.value.needed == free
        assert caught.value.free < free
        assert str(store.directory) in str(caught.value)
    reservation = store.reserve(len(DATA))
    with store.begin(SHA, len(DATA), "file", reservation) as ingest:
        ingest.write(DATA[:1_500_000])
        assert reservation.left == len(DATA) - (1 << 20)
        ingest.write(DATA[1_500_000:])
        ingest.commit()
    assert reservation.left == 0


def test_a_full_disk_is_one_sentence_and_keeps_the_good_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    real = os.write
    budget = 1_200_000

    def scarce(fd: int, data: bytes | memoryview) -> int:
        nonlocal budget
        if budget == 0:
            raise OSError(28, "No space left on device")
        n = real(fd, data[:budget])
        budget -= n
        return n

    refusal = pytest.raises(InsufficientSpace, match=r"expected \d+ bytes free, got \d+")
    with refusal, store.begin(SHA, len(DATA)) as ingest:
        monkeypatch.setattr(os, "write", scarce)
        ingest.write(DATA)
    monkeypatch.undo()
    assert store.partial_path(SHA).read_bytes() == DATA[:1_200_000]
    with store.begin(SHA, len(DATA)) as ingest:
        ingest.write(DATA[ingest.offset :])
        ingest.commit()
    assert store.path_of(SHA).read_bytes() == DATA


def test_an_open_blob_reads_back_and_one_cut_short_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    blob = store.open_blob(SHA, len(DATA))
    assert blob.read(1_000_000, 1000) == DATA[1_000_000:1_001_000]
    os.truncate(store.path_of(SHA), 1000)
    with pytest.raises(Truncated, match=f"expected {len(DATA)} bytes, got 1000"):
        store.open_blob(SHA, len(DATA))


def test_the_store_lists_what_is_complete_and_passes_over_foreign_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    (store.directory / "notes.txt").write_text("mine")
    (store.directory / "operator").mkdir()
    with store.begin("0" * 64, 10) as ingest:
        ingest.write(b"12345")
    assert list(store.complete()) == [(SHA, len(DATA))]
    usage = store.usage()
    assert (usage.blobs, usage.bytes) == (1, len(DATA))


def test_a_removed_blob_is_gone_with_its_chunk_list(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    assert store.remove(SHA) == len(DATA)
    assert store.remove(SHA) == 0
    assert names(store.directory) == set()


@pytest.mark.parametrize("name", ["..", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_digest_is_the_only_name_the_store_takes(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="64 lower-case hex"):
        store.path_of(name)
    with pytest.raises(ValueError, match="64 lower-case hex"):
        store.begin(name, 1)


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"file/image-storage: expected a writable directory, got Not a directory"):
        Store(tmp_path / "file")
