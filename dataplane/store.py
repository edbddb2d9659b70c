"""Complete verified files on disk, by digest.

    ROOT/image-storage/<64 hex>             complete blobs, and nothing else without a dot
    ROOT/image-storage/.partial/<64 hex>    on their way in: kept over a stop, re-hashed when resumed
    ROOT/image-storage/.chunks/<64 hex>     chunk lists, 32 bytes for each MiB
    ROOT/image-storage/.found/<64 hex>      whole files of that name which nobody has verified: hashed, then taken in
    ROOT/image-storage/.aside/              what is not ours, or is not what it was (aside)
    ROOT/image-storage/.owner .lock         whose store this is, and who has it open (control)

Everything lies below image-storage, because that directory is the one an operator mounts: a rename must stay on one
file system.

Invariants: a final name appears by rename, after the whole file matched its digest and size and was fsynced, and after
its chunk list was; so a file that is there has a chunk list, and a crash leaves partial files only. A failed
verification leaves nothing behind, neither final nor partial. Reserved bytes are counted against what statvfs says is
free until they are written or released. Folders, links, names with a dot in front and what file systems keep for
themselves are nobody's business here: operators and their tools have put them there.

Left to others: what to fetch and one owner of the directory at a time (control), bounded copies (core.lru).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bootplane.core.blob import Blob
from bootplane.core.digest import Verified, Verifier
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.aside import Aside, Kept
from bootplane.dataplane.durable import sync_directory, write_durably

GATHER_BYTES = 1 << 20  # written in one piece: smaller ones leave small folios, which cost sendfile +60% CPU
KEEP_FREE_BYTES = 64 << 20  # never planned for: the database and the log live on this disk too

FOREIGN = frozenset({"aquota.user", "aquota.group", "quota.user", "quota.group"})  # the file system's own plain files

_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
log = logging.getLogger("bootplane.store")


class StoreError(OSError):
    """The store's directory cannot do what is asked; the message is one sentence for the operator."""


class InProgress(StoreError):
    """Somebody writes this very blob."""


class InsufficientSpace(StoreError):
    """The disk has too little room: *needed* and *free* are bytes below *path*."""

    def __init__(self, path: Path, needed: int, free: int) -> None:
        super().__init__(f"{path}: expected {needed} bytes free, got {free}")
        self.path = path
        self.needed = needed
        self.free = free


@dataclass(frozen=True, slots=True)
class Usage:
    blobs: int
    bytes: int
    free_bytes: int  # what may still be reserved


@dataclass(frozen=True, slots=True)
class Inventory:
    """What lies in the store's directory."""

    blobs: Mapping[str, int]  # digest -> bytes
    strangers: tuple[str, ...]  # plain files of other names
    spared: tuple[str, ...]  # folders, links and what else is not ours to touch; names with a dot in front left out


class Reservation:
    """Bytes of the disk promised to one writer. Shrinks as they are written; give the rest back with release()."""

    def __init__(self, store: Store, nbytes: int) -> None:
        self._store = store
        self.left = nbytes

    def spend(self, nbytes: int) -> None:
        """*nbytes* have been written: statvfs sees them now."""
        self._store._unreserve(self, min(nbytes, self.left))

    def release(self) -> None:
        self._store._unreserve(self, self.left)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Store:
    """The store below *root*; makes its directories. One writer process; any number of readers. Thread-safe.

    Raises StoreError when *root* cannot be written (not with *read_only*, for a rack that shares a region's store).
    """

    def __init__(self, root: Path | str, *, keep_free_bytes: int = KEEP_FREE_BYTES, read_only: bool = False) -> None:
        self.root = Path(root)
        self.directory = self.root / "image-storage"
        self._partial = self.directory / ".partial"
        self._chunks = self.directory / ".chunks"
        self._found = self.directory / ".found"
        self.aside = Aside(self.directory / ".aside")
        self._keep_free = keep_free_bytes
        self._lock = threading.Lock()
        self._naming = threading.Lock()  # held across the renames of one blob
        self._reserved = 0
        self._open: set[str] = set()
        if read_only:
            return
        try:
            for path in (self.directory, self._partial, self._chunks, self._found):
                path.mkdir(parents=True, exist_ok=True)
            sync_directory(self.directory)
            probe = self._partial / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(f"{self.directory}: expected a writable directory, got {error.strerror}") from error

    # -- what is here

    def path_of(self, sha256: str) -> Path:
        return self.directory / _checked(sha256)

    def partial_path(self, sha256: str) -> Path:
        return self._partial / _checked(sha256)

    def has(self, sha256: str, size: int | None = None) -> bool:
        """Whether the complete blob is here, and, with *size*, has that many bytes. One stat, no hashing."""
        try:
            found = self.path_of(sha256).stat().st_size
        except FileNotFoundError:
            return False
        return size is None or found == size

    def complete(self) -> Iterator[tuple[str, int]]:
        """Digest and size of every complete blob, in no order. Foreign names are passed over."""
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if _HEX64.match(entry.name) and entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False).st_size

    def inventory(self) -> Inventory:
        """One look at every entry, and at no byte of any."""
        blobs: dict[str, int] = {}
        strangers, spared = [], []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name in FOREIGN or not entry.is_file(follow_symlinks=False):
                    spared.append(entry.name)
                elif _HEX64.match(entry.name):
                    blobs[entry.name] = entry.stat(follow_symlinks=False).st_size
                else:
                    strangers.append(entry.name)
        return Inventory(blobs, tuple(sorted(strangers)), tuple(sorted(spared)))

    def usage(self) -> Usage:
        sizes = [size for _, size in self.complete()]
        return Usage(len(sizes), sum(sizes), self.free_bytes())

    def open_blob(self, sha256: str, size: int | None = None) -> Blob:
        """The blob, ready to be sent. With *size* a file of another length raises core's Truncated."""
        path = self.path_of(sha256)
        if size is None:
            size = path.stat().st_size
        return Blob.open_file(str(path), sha256, size)

    def chunk_list(self, sha256: str) -> bytes:
        """32 bytes for each chunk. FileNotFoundError when the blob is not here."""
        return (self._chunks / _checked(sha256)).read_bytes()

    # -- space

    def free_bytes(self) -> int:
        """What may still be reserved, in bytes: the file system's free space less promises and the margin."""
        with self._lock:
            return self._free_locked()

    def reserve(self, nbytes: int) -> Reservation:
        """Promises *nbytes*. Raises InsufficientSpace."""
        with self._lock:
            free = self._free_locked()
            if nbytes > free:
                raise InsufficientSpace(self.directory, nbytes, max(free, 0))
            self._reserved += nbytes
        return Reservation(self, nbytes)

    def _free_locked(self) -> int:
        info = os.statvfs(self.directory)
        return info.f_bavail * info.f_frsize - self._reserved - self._keep_free

    def _unreserve(self, reservation: Reservation, nbytes: int) -> None:
        with self._lock:
            reservation.left -= nbytes
            self._reserved -= nbytes

    # -- in and out

    def begin(self, sha256: str, size: int, name: str = "", reservation: Reservation | None = None) -> Ingest:
        """Starts or resumes a file of which *sha256* and *size* are known; *name* is for messages.

        Re-hashes what a partial file holds already (Ingest.offset bytes: ask the source for the rest). Written bytes
        are taken off *reservation*. Raises InProgress when this blob is on its way in already.
        """
        path = self.partial_path(sha256)
        with self._lock:
            if sha256 in self._open:
                raise InProgress(f"{path}: expected one writer at a time, got a second one")
            self._open.add(sha256)
        try:
            return Ingest(self, path, sha256, size, name or sha256, reservation)
        except BaseException:  # goes on to the caller: nobody else would say that the writer is gone
            self._closed(sha256)
            raise

    def remove(self, sha256: str) -> int:
        """Takes a blob and its chunk list away; returns the bytes of the file, 0 when it was not here.

        Whoever has it open goes on reading: the name goes, the bytes stay until the last descriptor is closed.
        """
        path = self.path_of(sha256)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            size = 0
        (self._chunks / sha256).unlink(missing_ok=True)
        return size

    def withdraw(self, sha256: str, keep_s: float | None) -> Kept | None:
        """Takes a blob that is not what it was out of the store and puts it aside; None when it is not here, or the
        disk has no room for a folder more: then it counts as found, and is looked at again."""
        kept = None
        with contextlib.suppress(FileNotFoundError):
            try:
                kept = self.aside.put(self.path_of(sha256), keep_s)
            except OSError as error:
                if isinstance(error, FileNotFoundError):
                    raise
                self.doubt(sha256)
        (self._chunks / sha256).unlink(missing_ok=True)
        return kept

    def make_room(self, nbytes: int) -> int:
        """Gives up blobs that were put aside because they are damaged, the oldest first, until *nbytes* are free of
        them; returns how many bytes that were. Nothing else that was put aside goes before its time."""
        freed = 0
        for kept in self.aside.kept():
            if freed >= nbytes:
                break
            if kept.until is not None and _HEX64.match(kept.path.name):
                kept.path.unlink(missing_ok=True)
                freed += kept.bytes
                log.warning("removed before its time, for room: %s, %d bytes, damaged", kept.path, kept.bytes)
        return freed

    def prune_lists(self) -> int:
        """Removes chunk lists that a crash has left without their file; how many. Only while nothing is written."""
        gone = 0
        for entry in os.scandir(self._chunks):
            if entry.name.endswith(".new") or (_HEX64.match(entry.name) and not self.has(entry.name)):
                Path(entry.path).unlink(missing_ok=True)
                gone += 1
        return gone

    # -- files that are here and were verified by nobody

    def doubt(self, sha256: str) -> None:
        """The file of this name counts as found from now on: it is nobody's blob until adopt()."""
        self.path_of(sha256).rename(self._found / sha256)
        sync_directory(self._found)
        sync_directory(self.directory)

    def found(self) -> dict[str, int]:
        """Digest in the name -> bytes."""
        found = {}
        with os.scandir(self._found) as entries:
            for entry in entries:
                if _HEX64.match(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # adopted meanwhile
                        found[entry.name] = entry.stat(follow_symlinks=False).st_size
        return found

    def found_path(self, sha256: str) -> Path:
        return self._found / _checked(sha256)

    def adopt(self, verified: Verified) -> bool:
        """A found file whose bytes were read and are what its name says becomes a blob, durable before it has its
        name. False when it has gone meanwhile: somebody else has adopted it."""
        path = self.found_path(verified.sha256)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            self._publish(path, verified)
        except FileNotFoundError:
            return False
        sync_directory(self._found)
        return True

    def verify_found(self, sha256: str, size: int) -> bool:
        """Hashes the found file of this name, if there is one of that size, and adopts it when it is right. A wrong one
        stays where it is. Reads all of it."""
        try:
            with self.found_path(sha256).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != size:
                    return False
                verifier = Verifier(sha256, size, sha256)
                view = memoryview(bytearray(GATHER_BYTES))
                while count := file.readinto(view):
                    verifier.update(view[:count])
            return self.adopt(verifier.finish())
        except (FileNotFoundError, DigestMismatch):
            return False

    def kept_bytes(self, sha256: str) -> int:
        """Bytes of this file that need no fetching, as far as nobody has looked at them: partial, or found."""
        for path in (self.partial_path(sha256), self.found_path(sha256)):
            try:
                return path.stat().st_size
            except FileNotFoundError:
                continue
        return 0

    # -- on their way

    def partials(self) -> list[str]:
        """Digests of files that are on their way in, or were when the process ended."""
        return [entry.name for entry in os.scandir(self._partial) if _HEX64.match(entry.name)]

    def discard_partial(self, sha256: str) -> None:
        self.partial_path(sha256).unlink(missing_ok=True)

    def discard_idle_partial(self, sha256: str) -> bool:
        """The same, unless somebody is writing it; then False."""
        with self._lock:
            if sha256 in self._open:
                return False
            self.discard_partial(sha256)
            return True

    def _publish(self, partial: Path, verified: Verified) -> None:
        """Chunk list first, then the file: a crash between the two leaves a list that nobody reads."""
        with self._naming:
            write_durably(self._chunks / verified.sha256, verified.chunks)
            partial.rename(self.path_of(verified.sha256))
            sync_directory(self.directory)

    def _closed(self, sha256: str) -> None:
        with self._lock:
            self._open.discard(sha256)


class Ingest:
    """One file on its way into the store. Used by one thread; end it with commit(), suspend() or discard()."""

    def __init__(
        self, store: Store, path: Path, sha256: str, size: int, name: str, reservation: Reservation | None
    ) -> None:
        self.sha256 = sha256
        self.size = size
        self.name = name
        self.offset = 0  # bytes written and hashed, those of an earlier run included
        self._store = store
        self._path = path
        self._reservation = reservation
        self._verifier = self._fresh()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._gather = bytearray()
        try:
            self._resume()
        except BaseException:  # goes on to the caller, who has no object to close
            os.close(self._fd)
            raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends. Raises core's DigestMismatch on a byte too many and InsufficientSpace on a full disk; both leave
        the ingest open for discard(), respectively suspend()."""
        self._verifier.update(data)
        self._gather += data
        self.offset += len(data)
        while len(self._gather) >= GATHER_BYTES:
            self._flush(GATHER_BYTES)

    def restart(self) -> None:
        """Throws away what is there: the source could not resume, or what was kept is of something else."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._gather.clear()
        self._verifier = self._fresh()
        self.offset = 0

    def commit(self) -> Verified:
        """Checks digest and size, makes the file durable and gives it its final name.

        Raises core's DigestMismatch, with nothing left behind, and InsufficientSpace, with the partial file kept.
        """
        try:
            verified = self._verifier.finish()
        except DigestMismatch:
            self.discard()
            raise
        try:
            self._flush(len(self._gather))
            os.fsync(self._fd)
            self._store._publish(self._path, verified)
        finally:
            self._close()
        return verified

    def suspend(self) -> None:
        """Keeps what was written for a later begin()."""
        try:
            self._flush(len(self._gather))
        finally:
            self._close()

    def discard(self) -> None:
        self._path.unlink(missing_ok=True)
        self._close()

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """An ingest that was neither committed nor discarded is suspended, unless its bytes were wrong."""
        if self._fd < 0:
            return
        if isinstance(error, DigestMismatch):
            self.discard()
        elif isinstance(error, InsufficientSpace):
            self._close()  # what is still gathered does not fit either; the file on disk is a good prefix
        else:
            self.suspend()

    def _fresh(self) -> Verifier:
        return Verifier(self.sha256, self.size, self.name)

    def _resume(self) -> None:
        """Hashes the prefix an earlier run left. One that is longer than the file can be is of something else."""
        if os.fstat(self._fd).st_size > self.size:
            self.restart()
            return
        buffer = bytearray(GATHER_BYTES)
        view = memoryview(buffer)
        while n := os.readv(self._fd, [buffer]):
            self._verifier.update(view[:n])
            self.offset += n

    def _flush(self, nbytes: int) -> None:
        done = 0
        try:
            with memoryview(self._gather) as view:
                while done < nbytes:
                    done += os.write(self._fd, view[done:nbytes])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                needed = self.size - self.offset + len(self._gather) - done
                raise InsufficientSpace(self._path, needed, max(self._store.free_bytes(), 0)) from error
            raise StoreError(f"{self._path}: expected to write {nbytes} bytes, got {error.strerror}") from error
        finally:
            del self._gather[:done]
            if self._reservation is not None:
                self._reservation.spend(done)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._store._closed(self.sha256)


def _checked(sha256: str) -> str:
    if not _HEX64.match(sha256):
        raise ValueError(f"store: expected 64 lower-case hex digits, got {sha256!r}")
    return sha256
