"""A power cut at every boundary of the store's writing: no wrong bytes under a final name, and nothing verified lost.

The store works in a folder while each of its system calls that write is noted, and what was on stable storage at that
moment by POSIX's word alone: contents as of their last fsync, folders as of theirs. What a cut may leave is anything
between that and the present, so four kinds of remains are laid down for each moment: entries as synced or as they are,
contents as synced or as they are, where bytes that were not synced are zeros. On each a region starts. With the
database it is the same: its last transaction is there or lost.

Real file systems, and what they really keep: test_store_power_cut.
"""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pytest

from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.storage.database import Database
from bootplane.control.storage.images import ImageRepository
from bootplane.control.sync.housekeeping import Housekeeper
from bootplane.core.digest import Verifier, sha256_hex
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.store import Store

SIZE = (1 << 20) + 4097  # two writes, two chunks
CALLS = ("write", "fsync", "rename", "unlink", "ftruncate")
ZERO = "zeros in place of what was not synced"


class Moment(NamedTuple):
    """What there was after one system call. Entries: path -> inode, below the store; contents by inode."""

    call: str
    entries: dict[str, int]
    contents: dict[int, bytes]
    synced_entries: dict[str, int]
    synced_contents: dict[int, bytes]
    rows: tuple[BlobRecord, ...]
    rows_before: tuple[BlobRecord, ...]  # without the last transaction
    verified: frozenset[str]  # their commit() or adopt() has returned, and nobody has begun to remove them


class Recorder:
    """Notes a Moment after each call of CALLS below *root*."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.moments = root, list[Moment]()
        self.held: dict[int, BinaryIO] = {}
        self.rows: dict[str, BlobRecord] = {}
        self.rows_before: tuple[BlobRecord, ...] = ()
        self.verified: set[str] = set()
        self.synced_entries, self.synced_contents = self._look()
        for name in CALLS:
            patch.setattr(os, name, self._noted(name, getattr(os, name)))

    def _noted(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def noted(*arguments: object, **more: object) -> object:
            result = call(*arguments, **more)
            self.note(name, arguments[0])
            return result

        return noted

    def note(self, call: str, subject: object) -> None:
        entries, contents = self._look()
        if call == "fsync" and isinstance(subject, int):
            about = os.fstat(subject)
            if stat.S_ISDIR(about.st_mode):
                folder = Path(f"/proc/self/fd/{subject}").readlink().relative_to(self.root)
                inside = {path for path in {*entries, *self.synced_entries} if Path(path).parent == folder}
                for path in inside:
                    if path in entries:
                        self.synced_entries[path] = entries[path]
                    else:
                        del self.synced_entries[path]
            else:
                self.synced_contents[about.st_ino] = contents.get(about.st_ino, b"")
        self.moments.append(
            Moment(call, entries, contents, dict(self.synced_entries), dict(self.synced_contents),
                   tuple(self.rows.values()), self.rows_before, frozenset(self.verified))
        )  # fmt: skip

    def close(self) -> None:
        for file in self.held.values():
            file.close()

    def transaction(self, sha256: str, row: BlobRecord | None) -> None:
        self.rows_before = tuple(self.rows.values())
        if row is None:
            del self.rows[sha256]
        else:
            self.rows[sha256] = row
        self.note("transaction", None)

    def _look(self) -> tuple[dict[str, int], dict[int, bytes]]:
        entries, contents = {}, {}
        for path in self.root.rglob("*"):
            if path.is_file():
                inode = path.stat().st_ino
                if inode not in self.held:
                    self.held[inode] = path.open("rb")  # so that its number is given to no other file
                entries[str(path.relative_to(self.root))] = inode
                contents[inode] = path.read_bytes()
        return entries, contents


def remains(moment: Moment) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(which kind, path -> bytes) of what a cut may leave."""
    zeros = {
        inode: moment.synced_contents.get(inode, b"").ljust(len(data), b"\0") for inode, data in moment.contents.items()
    }
    for inode, data in moment.synced_contents.items():
        zeros.setdefault(inode, data)
    whole = {**moment.synced_contents, **moment.contents}
    for where, entries in (("entries as synced", moment.synced_entries), ("entries as they are", moment.entries)):
        yield f"{where}, all bytes", {path: whole[inode] for path, inode in entries.items()}
        yield f"{where}, {ZERO}", {path: zeros[inode] for path, inode in entries.items()}


class Life:
    """What a store goes through; each step tells the recorder what a caller may rely on from there on."""

    def __init__(self, store: Store, recorder: Recorder, seed: int) -> None:
        self.store, self.recorder, self.chance = store, recorder, random.Random(seed)

    def fetched(self, *, in_two: bool = False) -> str:
        data = self.chance.randbytes(SIZE)
        sha256 = sha256_hex(data)
        if in_two:
            with self.store.begin(sha256, SIZE) as ingest:
                ingest.write(data[: SIZE // 2])
        with self.store.begin(sha256, SIZE) as ingest:
            ingest.write(data[ingest.offset :])
            self.known(sha256, ingest.commit().root)
        return sha256

    def copied_and_adopted(self) -> None:
        data = self.chance.randbytes(SIZE)
        sha256 = sha256_hex(data)
        self.store.path_of(sha256).write_bytes(data)
        self.store.doubt(sha256)
        verifier = Verifier(sha256, SIZE)
        verifier.update(data)
        verified = verifier.finish()
        assert self.store.adopt(verified)
        self.known(sha256, verified.root)

    def known(self, sha256: str, root: str) -> None:
        self.recorder.verified.add(sha256)
        self.recorder.note("committed", None)
        self.recorder.transaction(sha256, BlobRecord(sha256, SIZE, root))

    def removed(self, sha256: str) -> None:
        self.recorder.verified.discard(sha256)
        self.recorder.transaction(sha256, None)
        self.store.remove(sha256)

    def put_aside(self, sha256: str) -> None:
        self.recorder.verified.discard(sha256)
        self.recorder.transaction(sha256, None)
        self.store.withdraw(sha256, 3600.0)

    def refused(self) -> None:
        with pytest.raises(DigestMismatch), self.store.begin("ab" * 32, SIZE) as ingest:
            ingest.write(bytes(SIZE))
            ingest.commit()


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "x.sqlite"
    made = Database(f"sqlite:///{path}")
    made.migrate()
    made.make_durable()
    made.close()
    return path


@pytest.fixture
def moments(tmp_path: Path) -> list[Moment]:
    with pytest.MonkeyPatch.context() as patch:
        store = Store(tmp_path)
        life = Life(store, Recorder(store.directory, patch), seed=6)
        first = life.fetched()
        second = life.fetched(in_two=True)
        life.refused()
        life.removed(first)
        life.copied_and_adopted()
        life.put_aside(second)
        life.fetched()
        life.recorder.close()
        return life.recorder.moments


def start(folder: Path, files: dict[str, bytes], rows: tuple[BlobRecord, ...], database: Path) -> Counter[str]:
    """A region's start on these remains; what it finds is checked."""
    folder.mkdir()
    shutil.copy(database, folder / "x.sqlite")
    for path, data in files.items():
        target = folder / "image-storage" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    opened = Database(f"sqlite:///{folder / 'x.sqlite'}")
    blobs, store = BlobRepository(opened), Store(folder)
    blobs.record(rows)
    try:
        found = Housekeeper(store, blobs, ImageRepository(opened), 3600.0).reconcile()
        present = blobs.present()
        final = dict(store.complete())
        assert present.keys() == final.keys(), "a row claims what is not there, or a file has no row"
        for sha256, size in final.items():
            data = store.path_of(sha256).read_bytes()
            assert sha256_hex(data) == sha256 and len(data) == size == present[sha256].size
            verifier = Verifier(sha256, size)
            verifier.update(data)
            assert verifier.finish().chunks == store.chunk_list(sha256)
        for sha256 in store.partials():
            resume(store, sha256)
        return Counter(final=len(final), adopted=len(found.adopted), missing=len(found.missing),
                       doubted=len(found.doubted))  # fmt: skip
    finally:
        opened.close()


def resume(store: Store, sha256: str) -> None:
    """A partial file is never taken for what it is not: whole and right, or refused and gone."""
    ingest = store.begin(sha256, SIZE)
    ingest.write(bytes(SIZE - ingest.offset))
    try:
        ingest.commit()
    except DigestMismatch:
        assert not store.has(sha256)
    else:
        assert sha256_hex(store.path_of(sha256).read_bytes()) == sha256
    assert sha256 not in store.partials()


def test_whatever_a_cut_leaves_no_wrong_bytes_have_a_final_name_and_nothing_verified_is_lost(
    moments: list[Moment], tmp_path: Path, empty_database: Path
) -> None:
    tried: set[tuple[object, ...]] = set()
    total: Counter[str] = Counter()
    for number, moment in enumerate(moments):
        for kind, files in remains(moment):
            for rows in {moment.rows, moment.rows_before}:
                key = tuple(sorted((path, hash(data)) for path, data in files.items())), rows, moment.verified
                if key in tried:
                    continue
                tried.add(key)
                where = tmp_path / "remains"
                try:
                    total += start(where, files, rows, empty_database)
                    kept = {path.name for path in (where / "image-storage").iterdir()}
                    assert moment.verified <= kept, "a verified file is lost"
                except BaseException as error:
                    error.add_note(f"moment {number} of {len(moments)}, after {moment.call}: {kind}, {len(rows)} rows")
                    raise
                finally:
                    shutil.rmtree(where, ignore_errors=True)
    print(f"\n{len(moments)} moments, {len(tried)} different remains: {dict(total)}")
    assert len(moments) > 40 and total["adopted"] and total["missing"]


def test_the_test_has_teeth_without_fsync_zeros_get_a_final_name(tmp_path: Path, empty_database: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder(Store(tmp_path).directory, patch)
        noted = os.fsync
        patch.setattr(os, "fsync", lambda fd: None if stat.S_ISREG(os.fstat(fd).st_mode) else noted(fd))
        Life(Store(tmp_path), recorder, 1).fetched()
        recorder.close()
    with pytest.raises(AssertionError):
        for moment in recorder.moments:
            for _, files in remains(moment):
                shutil.rmtree(tmp_path / "remains", ignore_errors=True)
                start(tmp_path / "remains", files, moment.rows, empty_database)
