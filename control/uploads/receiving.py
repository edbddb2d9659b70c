"""One file of an upload that comes in: bytes -> the store's ingest, and every way that can end, in our words.

Invariant: bytes that differ from what was announced, or are of another kind, are kept nowhere; any other end keeps what
has arrived. Left to others: what the upload is then (Desk), who else may write (parts), the connection (api.uploads).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from bootplane.control.domain.images import ResourceFile
from bootplane.control.errors import Gone, NoSpace, Refused, Unavailable
from bootplane.control.storage.uploads import Upload
from bootplane.control.sync.progress import Rate
from bootplane.control.uploads import magic
from bootplane.core.digest import Verified
from bootplane.core.status import DigestMismatch
from bootplane.dataplane.store import Ingest, InsufficientSpace, StoreError

TELL_S = 0.5  # between two events about one upload's progress
_LOG = logging.getLogger("bootplane.uploads")


class Desk(Protocol):
    """Who is told what happens to a file that comes in."""

    def took(self, nbytes: int) -> None: ...
    def moved(self, upload_id: str) -> None: ...
    def arrived(self, verified: Verified) -> None: ...
    def refuse(self, upload: Upload, sentence: str) -> None: ...
    def lacks_room(self, upload: Upload) -> None: ...
    def left(self, receiving: Receiving) -> None: ...
    def finish_if_whole(self, upload_id: str) -> dict[str, Any]: ...


class Receiving:
    """Used by one thread at a time; ends with end() or abandon(), whatever happened."""

    def __init__(self, desk: Desk, upload: Upload, file: ResourceFile) -> None:
        self.upload = upload
        self.file = file
        self.where = f"upload {upload.id}: {file.name}"  # for sentences
        self.ingest: Ingest | None = None
        self.is_cancelled = False
        self._desk = desk
        self._rate = Rate(time.monotonic)
        self._rate_lock = threading.Lock()
        self._told = 0.0
        self._head: bytes | None = None  # the file's beginning, until there is enough of it to judge

    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        with self._rate_lock:
            return self._rate.value()

    def attach(self, ingest: Ingest) -> None:
        """*ingest* has been opened: bytes may come."""
        self.ingest = ingest
        if ingest.offset == 0:
            self._head = b""

    def write(self, data: bytes | bytearray) -> None:
        """Appends. Raises Refused for bytes that cannot be right, NoSpace, Gone when it was cancelled."""
        ingest = self.ingest
        if ingest is None:
            raise Gone(f"upload {self.upload.id}: it has ended")
        self._raise_if_cancelled()
        with self._words(ingest):
            self._judge(data)
            ingest.write(data)
        self._desk.took(len(data))
        with self._rate_lock:
            self._rate.add(len(data))
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told = now
            self._desk.moved(self.upload.id)

    def end(self) -> dict[str, Any]:
        """No more bytes come. The whole file is committed, a part is kept for the next time.

        Returns the upload's document; raises Refused when the whole file is not what was announced.
        """
        try:
            self._raise_if_cancelled()
            ingest = self.ingest
            if ingest is not None:
                with self._words(ingest):
                    if ingest.offset < self.file.size:
                        ingest.suspend()
                    else:
                        self._judge(b"", is_all=True)
                        verified = ingest.commit()
                        self._desk.arrived(verified)
                self.ingest = None
        finally:
            self._desk.left(self)
        return self._desk.finish_if_whole(self.upload.id)

    def abandon(self) -> None:
        """As end(), for a client that is gone or was refused: what has arrived is kept, and nobody hears of it."""
        ingest, self.ingest = self.ingest, None
        try:
            if ingest is not None:
                ingest.suspend()
        except StoreError as error:
            _LOG.warning("upload %s: %s", self.upload.id, error)
        finally:
            self._desk.left(self)

    def _raise_if_cancelled(self) -> None:
        if self.is_cancelled:
            self.abandon()
            raise Gone(f"upload {self.upload.id}: it was cancelled")

    @contextlib.contextmanager
    def _words(self, ingest: Ingest) -> Iterator[None]:
        """Ends the ingest as its error asks for, and says the error in our words."""
        name = f"image {self.upload.resource.name}"
        try:
            yield
        except (DigestMismatch, Refused) as error:
            self._discard(ingest)
            self._desk.refuse(self.upload, str(error))
            raise Refused(str(error)) from None
        except InsufficientSpace as error:
            self.ingest = None
            ingest.__exit__(type(error), error, None)  # as a with block ends it: without writing again
            self._desk.lacks_room(self.upload)
            raise NoSpace(f"{name}: {error}; what has arrived is kept") from None
        except OSError as error:  # of the disk: also while the whole file is made durable and gets its name
            self.abandon()
            raise disk_failed(name, error) from None

    def _discard(self, ingest: Ingest) -> None:
        self.ingest = None
        ingest.discard()

    def _judge(self, data: bytes | bytearray, *, is_all: bool = False) -> None:
        """Refuses what is plainly not of its type as soon as enough of it is here."""
        if self._head is None:
            return
        self._head += data[: magic.HEAD_BYTES - len(self._head)]
        if is_all or len(self._head) >= magic.HEAD_BYTES:
            head, self._head = self._head, None
            resource = self.upload.resource
            magic.check(self.file.ftype, resource.arch, head, f"image {resource.name}: {self.file.name}")


def disk_failed(name: str, error: OSError) -> NoSpace | Unavailable:
    """*error* of the store's directory, in a sentence."""
    text = f"{name}: {error if isinstance(error, StoreError) else error.strerror}; what has arrived is kept"
    is_full = isinstance(error, InsufficientSpace) or error.errno in (errno.ENOSPC, errno.EDQUOT)
    return NoSpace(text) if is_full else Unavailable(text)
