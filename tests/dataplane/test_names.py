from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootplane.core.lru import Cache
from bootplane.dataplane import catalogue
from bootplane.dataplane.catalogue import BlobEntry, Catalogue
from bootplane.dataplane.names import Registry
from bootplane.dataplane.store import Store
from tests.fakes.region import chunks_of

FILES = {"a": b"a" * 100, "b": b"b" * 2_000_000}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def catalogue_of(files: dict[str, bytes], version: int = 1) -> Catalogue:
    blobs = {digest(x): BlobEntry(len(x), hashlib.sha256(chunks_of(x)).hexdigest()) for x in files.values()}
    return catalogue.build("r", version, blobs, {name: digest(data) for name, data in files.items()})


LISTS = {digest(data): chunks_of(data) for data in FILES.values()}


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(str(tmp_path / "cache"), 64 << 20)
    yield cache
    cache.close()


def registry(cache: Cache, store: Store | None = None) -> Registry:
    return Registry(cache, lambda sha256, entry: LISTS.get(sha256), store)


def test_a_catalogue_becomes_a_table_of_blobs(cache: Cache) -> None:
    names = registry(cache)
    table, lacking = names.apply(catalogue_of(FILES, version=7))
    assert (table.version, len(table), lacking, len(names)) == (7, 2, [], 2)
    assert table.find("/a") == digest(FILES["a"])
    assert table.find("b") == digest(FILES["b"])
    assert table.find("c") is None


def test_a_blob_that_stays_is_the_same_blob(cache: Cache) -> None:
    names = registry(cache)
    names.apply(catalogue_of(FILES))
    before = names._current[digest(FILES["b"])]
    names.apply(catalogue_of({"renamed": FILES["b"]}, version=2))
    assert names._current[digest(FILES["b"])] is before
    assert names.by_id(before.id) is before


def test_a_boot_loader_is_protected_in_the_cache_however_large_it_is(cache: Cache) -> None:
    data = bytes(5 << 20)
    names = Registry(cache, lambda sha256, entry: chunks_of(data), None)

    def protected_bytes() -> int:
        blob = names._current[digest(data)]
        if cache.begin(blob, 0):
            cache.store(blob, 0, data[: 1 << 20])
        return cache.stats()["protected_bytes"]

    names.apply(catalogue_of({"images/0123/kernel": data}))
    assert protected_bytes() == 0
    names.apply(catalogue_of({"bootloader/uefi/amd64/huge.efi": data}, version=2))  # what is there already, too
    assert protected_bytes() == 4 << 20


def test_a_blob_without_a_chunk_list_is_left_out_and_named(cache: Cache) -> None:
    names = registry(cache)
    stranger = b"no list for me" * 200_000
    table, lacking = names.apply(catalogue_of({**FILES, "c": stranger}))
    assert lacking == [digest(stranger)]
    assert (table.find("c"), len(table)) == (None, 2)


def test_a_blob_that_left_is_known_while_a_snapshot_holds_it(cache: Cache) -> None:
    names = registry(cache)
    table, _ = names.apply(catalogue_of(FILES))
    gone = names._current[digest(FILES["a"])]
    blob_id = gone.id
    del gone
    newer, _ = names.apply(catalogue_of({"b": FILES["b"]}, version=2))
    assert names.release(lambda blob: True) == 0
    assert names.by_id(blob_id) is not None
    del table  # the reactors have let go of the old snapshot
    assert names.release(lambda blob: False) == 0
    assert names.release(lambda blob: True) == 1
    assert names.by_id(blob_id) is None
    assert newer.find("b") == digest(FILES["b"])


def test_a_released_blob_leaves_the_cache(cache: Cache) -> None:
    names = registry(cache)
    names.apply(catalogue_of(FILES))
    blob = names._current[digest(FILES["a"])]
    assert cache.begin(blob, 0)
    cache.store(blob, 0, FILES["a"])
    assert cache.stats()["segments"] == 1
    del blob
    names.apply(catalogue_of({"b": FILES["b"]}, version=2))
    assert names.release(lambda blob: True) == 1
    assert cache.stats()["segments"] == 0


def test_a_blob_that_comes_back_before_it_was_released_keeps_its_bytes(cache: Cache) -> None:
    names = registry(cache)
    names.apply(catalogue_of(FILES))
    blob = names._current[digest(FILES["a"])]
    assert cache.begin(blob, 0)
    cache.store(blob, 0, FILES["a"])
    names.apply(catalogue_of({"b": FILES["b"]}, version=2))
    names.apply(catalogue_of(FILES, version=3))
    assert names._current[digest(FILES["a"])].read(0, 100) == FILES["a"]
    assert names.release(lambda blob: True) == 0


def test_a_complete_file_of_a_shared_store_is_opened_in_place(cache: Cache, tmp_path: Path) -> None:
    store = Store(tmp_path / "region")
    with store.begin(digest(FILES["b"]), len(FILES["b"])) as ingest:
        ingest.write(FILES["b"])
        ingest.commit()
    names = registry(cache, Store(tmp_path / "region", read_only=True))
    names.apply(catalogue_of(FILES))
    assert names._current[digest(FILES["b"])].complete
    assert not names._current[digest(FILES["a"])].complete


def test_a_file_that_becomes_complete_in_the_shared_store_replaces_the_filled_one(cache: Cache, tmp_path: Path) -> None:
    store = Store(tmp_path / "region")
    names = registry(cache, store)
    names.apply(catalogue_of(FILES))
    assert not names._current[digest(FILES["b"])].complete
    with store.begin(digest(FILES["b"]), len(FILES["b"])) as ingest:
        ingest.write(FILES["b"])
        ingest.commit()
    names.apply(catalogue_of(FILES, version=2))
    assert names._current[digest(FILES["b"])].complete


def test_a_file_of_the_shared_store_with_a_wrong_length_is_not_used(cache: Cache, tmp_path: Path) -> None:
    store = Store(tmp_path / "region")
    with store.begin(digest(FILES["b"]), len(FILES["b"])) as ingest:
        ingest.write(FILES["b"])
        ingest.commit()
    os.truncate(store.path_of(digest(FILES["b"])), 10)
    names = registry(cache, store)
    names.apply(catalogue_of(FILES))
    assert not names._current[digest(FILES["b"])].complete
