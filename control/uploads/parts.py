"""Files of uploads in the store: what is here of each, who brings which just now, and where a file goes on.

Invariant: one file has one writer, and whoever brings the same content meanwhile waits for it. How much has arrived is
what the store's partial file holds, and nothing else says it. Thread-safe. Left to others: the bytes (receiving).
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

from bootplane.control.domain.images import ResourceFile
from bootplane.control.errors import Busy, Unavailable
from bootplane.control.storage.blobs import BlobRecord, BlobRepository
from bootplane.control.uploads.magic import HEAD_BYTES
from bootplane.control.uploads.receiving import Receiving, disk_failed
from bootplane.core.digest import Verified, chunk_root
from bootplane.dataplane.store import Ingest, InProgress, Reservation, Store

AT_ONCE = 16  # files received at a time


class Progress(NamedTuple):
    """How far a file is. *state*: done, receiving or waiting; *rate*: bytes per second."""

    done: int  # bytes
    state: str
    rate: float = 0.0


class Parts:
    def __init__(self, store: Store, blobs: BlobRepository) -> None:
        self._store, self._blobs = store, blobs
        self._lock = threading.Lock()  # of what follows
        self._receiving: dict[str, Receiving] = {}  # digest -> who brings it
        self._ending = False
        self.taken_bytes = 0  # of all uploads since the start

    # -- who brings what

    def claim(self, receiving: Receiving) -> None:
        """Nobody else brings this content until leave(). Raises Busy, and Unavailable once the region ends."""
        where, sha256 = receiving.where, receiving.file.sha256
        with self._lock:
            if self._ending:
                raise Unavailable("the region ends; it goes on with the upload when it is back")
            if sha256 in self._receiving:
                raise Busy(f"{where}: somebody else is sending this content just now")
            if len(self._receiving) >= AT_ONCE:
                raise Busy(f"{where}: expected at most {AT_ONCE} files at a time, got one more")
            self._receiving[sha256] = receiving

    def leave(self, receiving: Receiving) -> None:
        with self._lock:
            if self._receiving.get(receiving.file.sha256) is receiving:
                del self._receiving[receiving.file.sha256]

    def busy(self) -> set[str]:
        """Ids of the uploads of which something comes in just now."""
        with self._lock:
            return {receiving.upload.id for receiving in self._receiving.values()}

    def count(self) -> int:
        """Files that come in just now."""
        with self._lock:
            return len(self._receiving)

    def cancel(self, upload_id: str) -> None:
        """Whoever sends to this upload is told at the next piece."""
        with self._lock:
            for receiving in self._receiving.values():
                if receiving.upload.id == upload_id:
                    receiving.is_cancelled = True

    def took(self, nbytes: int) -> None:
        with self._lock:
            self.taken_bytes += nbytes

    def end(self) -> None:
        """Nobody begins any more."""
        self._ending = True

    # -- what is here

    def is_here(self, file: ResourceFile) -> bool:
        """Whether the whole file is, known to the database from now on if it was not."""
        if not self._store.has(file.sha256, file.size):
            return False
        if self._blobs.get(file.sha256) is None:
            if self._blobs.is_removed(file.sha256):  # its file is being taken away just now
                return False
            root = chunk_root(self._store.chunk_list(file.sha256))
            self._blobs.record([BlobRecord(file.sha256, file.size, root)])
        return True

    def are_here(self, files: Iterable[ResourceFile]) -> bool:
        return all(self.is_here(file) for file in files)

    def bytes_here(self, file: ResourceFile) -> int:
        """Where the file goes on."""
        if self.is_here(file):
            return file.size
        try:
            return min(self._store.partial_path(file.sha256).stat().st_size, file.size)
        except FileNotFoundError:
            return 0

    def is_unnamed(self, file: ResourceFile) -> bool:
        """All its bytes are here, and not under its name: the region was killed, or its disk failed, in between."""
        return not self.is_here(file) and self.bytes_here(file) == file.size

    def lacking(self, files: Iterable[ResourceFile]) -> int:
        """Bytes of the distinct files that are still to come."""
        return sum({file.sha256: file.size - self.bytes_here(file) for file in files}.values())

    def progress(self, file: ResourceFile, *, is_complete: bool) -> Progress:
        with self._lock:
            receiving = self._receiving.get(file.sha256)
        ingest = receiving.ingest if receiving is not None else None
        if receiving is not None and ingest is not None:
            return Progress(ingest.offset, "receiving", receiving.rate())
        done = file.size if is_complete else self.bytes_here(file)
        return Progress(done, "done" if done == file.size and self._store.has(file.sha256) else "waiting")

    def head(self, file: ResourceFile) -> bytes:
        """What a whole file begins with. Raises FileNotFoundError."""
        with self._store.path_of(file.sha256).open("rb") as data:
            return data.read(HEAD_BYTES)

    # -- in and out

    def begin(self, where: str, file: ResourceFile, room: Reservation) -> Ingest:
        """Hashes again what is here of the file, which takes a while. Raises Busy, NoSpace or Unavailable."""
        try:
            return self._store.begin(file.sha256, file.size, where, room)
        except InProgress:
            raise Busy(f"{where}: a sync brings this content just now") from None
        except OSError as error:
            raise disk_failed(where, error) from None

    def arrived(self, verified: Verified) -> None:
        self._blobs.record([BlobRecord(verified.sha256, verified.size, verified.root)])

    def discard(self, files: Iterable[ResourceFile], wanted: Collection[str]) -> None:
        """The partial ones of *files* go, but for what is *wanted* (digests) or being written."""
        for file in files:
            if file.sha256 not in wanted:
                self._store.discard_idle_partial(file.sha256)
