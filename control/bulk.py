"""The bulk port: blobs by digest (``/blob/<sha256>``) for racks, sent by a core reactor in this process.

Invariant: the table holds exactly the blobs of the store that are present, and the names of those that were removed; a
name that is not there gets the reactor's 404, one of a removed file its 410, without asking Python. What bounds the
latter is how many removed files the database knows (storage.blobs, REMOVED_KEPT): about 150 bytes each in the table.
Left to others: which blobs exist, and which did (storage), when to publish (app).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterable

from bootplane.control.config import join_address, split_address
from bootplane.control.errors import StartError
from bootplane.core.blob import Blob, reap
from bootplane.core.counters import COUNTERS
from bootplane.core.reactor import Reactor
from bootplane.core.status import CoreError
from bootplane.core.table import Table
from bootplane.dataplane.store import Store

ST_UNKNOWN = 10  # core/status.pxd
REAP_S = 1.0  # a removed file keeps its disk space until its descriptor is closed
_LOG = logging.getLogger("bootplane.bulk")


class BulkServer:
    """Owns the listening socket and one reactor. ``publish`` may be called from any one thread at a time."""

    def __init__(self, store: Store, address: str, inherited: socket.socket | None = None) -> None:
        """*inherited*: listens already, and takes the place of *address*. Raises StartError."""
        self._store = store
        self._socket = inherited or _listen(address)
        host, port = self._socket.getsockname()[:2]
        self.address = join_address(host, port)
        self._reactor = Reactor(0, http=[self._socket.fileno()], http_options={"control": 0})
        self._mark: int | None = None  # of the last ping
        self._counted: dict[str, int] | None = None  # once the reactor has gone
        self._blobs: dict[str, Blob] = {}
        self._version = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="bulk-reaper", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._reactor.start()
        self._reaper.start()
        loop.add_reader(self._reactor.fileno(), self._drain)

    def publish(self, blobs: Iterable[tuple[str, int]], removed: Iterable[str] = ()) -> list[str]:
        """Serve these (sha256, size), and 410 for those *removed* that are not among them. Returns the digests whose
        file is missing or of another length."""
        wanted = dict(blobs)
        missing = []
        for sha256 in [*self._blobs]:
            if sha256 not in wanted:
                del self._blobs[sha256]
        for sha256, size in wanted.items():
            if sha256 in self._blobs:
                continue
            try:
                self._blobs[sha256] = self._store.open_blob(sha256, size)
            except (OSError, CoreError) as error:
                _LOG.error("blob %s cannot be served: %s", sha256, error)
                missing.append(sha256)
        self._version += 1
        names = {f"blob/{sha256}": blob for sha256, blob in self._blobs.items()}
        gone = [f"blob/{sha256}" for sha256 in removed if sha256 not in wanted]
        self._reactor.publish(Table(names, self._version, gone))
        return missing

    def is_turning(self) -> bool:
        """Whether its thread has read the mail that the last call of this posted. One thread may call it."""
        is_turning = self._reactor.alive and (self._mark is None or self._reactor.has_read(self._mark))
        if is_turning:
            self._mark = self._reactor.ping()
        return is_turning

    def counters(self) -> dict[str, int]:
        return self._reactor.counters() if self._counted is None else self._counted

    def stop(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._reactor.fileno())
        self._reactor.stop()
        self._socket.close()
        self._reactor.take()  # snapshots that came back hold blobs
        self._counted = self._reactor.counters()
        del self._reactor  # and its descriptors, whoever still holds this object
        self._blobs.clear()
        self._stopping.set()
        if self._reaper.is_alive():
            self._reaper.join()

    def _reap(self) -> None:
        """Closes what nobody sends any more, here and not on the reactor: freeing a large file takes a while."""
        while not self._stopping.wait(REAP_S):
            reap()
        reap()

    def _drain(self) -> None:
        for mail in self._reactor.take():
            if mail[0] == "ask":  # a machine's configuration is asked of racks, not here
                self._reactor.answer(mail[1], None, ST_UNKNOWN)


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise StartError(f"bulk address {address}: cannot listen: {error.strerror}") from None
    return listener


COUNTER_HELP = {counter.name: counter.help for counter in COUNTERS}
